//! Traffic that the lab makes by itself: pulls by turns, and nodes that die and come back.

use std::{sync::Arc, time::Duration};

use api::lab::HostKind;
use rand::seq::IndexedRandom as _;
use tokio::time::{Instant, sleep, sleep_until};

use crate::lasting::{contents, host::What, state::Lab};

/// When what was killed is started again.
const DEAD: Duration = Duration::from_secs(10);

/// Makes traffic until the lab ends.
pub(crate) async fn make(lab: Arc<Lab>) {
    let mut changes = lab.traffic();
    let mut turn = 0;
    loop {
        let rates = *changes.borrow_and_update();
        let every = |per_minute: f64| (per_minute > 0.0).then(|| Duration::from_secs_f64(60.0 / per_minute));
        let (pulls, kills) = rates
            .map_or((None, None), |rates| (every(rates.pulls_per_minute), every(rates.churn_per_minute)));
        let now = Instant::now();
        let mut next = (pulls.map(|every| now + every), kills.map(|every| now + every));
        loop {
            tokio::select! {
                () = lab.stop.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                () = at(next.0) => {
                    pull(&lab, &mut turn);
                    next.0 = pulls.map(|every| Instant::now() + every);
                }
                () = at(next.1) => {
                    kill(&lab);
                    next.1 = kills.map(|every| Instant::now() + every);
                }
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The next leecher gets everything anew.
fn pull(lab: &Arc<Lab>, turn: &mut usize) {
    let leechers = lab.nodes(Some(HostKind::Leecher));
    let things = lab.things(None).unwrap_or_default();
    if let Some(entry) = leechers.get(*turn % leechers.len().max(1)) {
        contents::get_anew(lab, entry, things);
    }
    *turn = turn.wrapping_add(1);
}

/// A node dies, and is started again later.
fn kill(lab: &Arc<Lab>) {
    let nodes = lab.nodes(None);
    let Some(name) = nodes.choose(&mut rand::rng()).map(|entry| entry.info.name.clone()) else { return };
    let churned = lab.clone();
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(async move {
        // Whoever was faster in ending or starting it had a reason.
        let _ = churned.order(&name, What::Kill).await;
        sleep(DEAD).await;
        let _ = churned.order(&name, What::Start).await;
    }));
}
