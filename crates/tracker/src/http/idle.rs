//! Connections of tasks that stand idle: when there is no place for a newcomer, the one that does so for longest goes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::places::Place;

/// Since when, and a number of its own.
type Spot = (Duration, u64);

/// All of them, with their places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Idle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    resting: Mutex<BTreeMap<Spot, (Place, CancellationToken)>>,
    numbers: AtomicU64,
}

/// A connection's place, which others may take while it is idle.
#[derive(Debug)]
pub(crate) struct Seat {
    idle: Idle,
    number: u64,
    place: Mutex<Holding>,
    /// Its place has gone to another.
    pub(crate) gone: CancellationToken,
}

#[derive(Debug)]
enum Holding {
    /// It has its place.
    Place(Place),
    /// It has left it among the idle ones.
    Since(Duration),
    /// Another has it.
    Nothing,
}

impl Idle {
    pub(crate) fn seat(&self, place: Place) -> Seat {
        let number = self.0.numbers.fetch_add(1, Relaxed);
        Seat {
            idle: self.clone(),
            number,
            place: Mutex::new(Holding::Place(place)),
            gone: CancellationToken::new(),
        }
    }

    /// Since when the one stands idle that does so for longest.
    pub(crate) fn longest(&self) -> Option<Duration> {
        self.resting().first_key_value().map(|((since, _), _)| *since)
    }

    /// Ends that one, if it is idle for a second or longer; its place is free then.
    pub(crate) fn end_longest(&self, now: Duration) -> bool {
        let mut resting = self.resting();
        let Some(first) = resting.first_entry() else { return false };
        if first.key().0 + SHORTEST > now {
            return false;
        }
        let (place, gone) = first.remove();
        drop(resting);
        drop(place);
        gone.cancel();
        true
    }

    fn resting(&self) -> MutexGuard<'_, BTreeMap<Spot, (Place, CancellationToken)>> {
        self.0.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has asked just now is about to ask again.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);

impl Seat {
    /// Nothing is asked for now.
    pub(crate) fn rest(&self, now: Duration) {
        let mut holding = self.holding();
        match std::mem::replace(&mut *holding, Holding::Nothing) {
            Holding::Place(place) => {
                self.idle.resting().insert((now, self.number), (place, self.gone.clone()));
                *holding = Holding::Since(now);
            }
            other => *holding = other,
        }
    }

    /// Something is. Says whether it may be answered: whoever has lost the place is to go.
    pub(crate) fn rise(&self) -> bool {
        let mut holding = self.holding();
        if let Holding::Since(since) = *holding {
            let place = self.idle.resting().remove(&(since, self.number));
            *holding = place.map_or(Holding::Nothing, |(place, _)| Holding::Place(place));
        }
        matches!(*holding, Holding::Place(_))
    }

    fn holding(&self) -> MutexGuard<'_, Holding> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.rise();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::{NoPlace, Places};

    #[test]
    fn the_connection_that_is_idle_for_longest_makes_room() {
        let (idle, places, at) = (Idle::default(), Places::new(3, 3), Duration::from_secs);
        let seat = || places.enter(None, false).map(|place| idle.seat(place));
        let (first, second, third) = (seat().expect("free"), seat().expect("free"), seat().expect("free"));
        assert!(seat().is_err_and(|no| no == NoPlace::Full) && !idle.end_longest(at(9)), "all are at work");
        second.rest(at(1));
        first.rest(at(2));
        third.rest(at(3));
        assert!(first.rise());
        first.rest(at(4));
        assert_eq!(idle.longest(), Some(at(1)));
        assert!(idle.end_longest(at(4)) && second.gone.is_cancelled() && !second.rise());
        let fourth = seat().expect("its place is free");
        assert!(idle.end_longest(at(4)) && third.gone.is_cancelled(), "the next");
        assert!(!idle.end_longest(at(4)), "it has just been served");
        drop((first, second, third));
        assert_eq!((places.taken(), idle.longest()), (1, None));
        drop(fourth);
        assert_eq!(places.taken(), 0);
    }
}
