//! The connections of a worker by token.

use std::collections::VecDeque;

use super::connection::{Connection, Stage};

/// How many idle connections are looked up at a time.
const LOOK: usize = 256;

/// The connections of a worker, each under a token that no later one in its place shares.
#[derive(Default)]
pub(super) struct Table {
    places: Vec<(u32, Option<Connection>)>,
    free: Vec<u32>,
    /// Those that came in without a whole request, oldest first, and some that have changed or gone since.
    unserved: VecDeque<u64>,
    /// Some that were idle, and since when, the longest first; and some that have changed or gone since.
    idle: VecDeque<(u64, u64)>,
    /// There was none that had been so since then or longer.
    none_until: Option<u64>,
}

impl Table {
    /// The token of the next to be inserted.
    pub(super) fn next(&mut self) -> u64 {
        let at = match self.free.last() {
            Some(&at) => at,
            None => {
                self.places.push((0, None));
                let at = (self.places.len() - 1) as u32;
                self.free.push(at);
                at
            }
        };
        let turn = self.places.get(at as usize).map_or(0, |(turn, _)| *turn);
        u64::from(turn) << 32 | u64::from(at)
    }

    pub(super) fn insert(&mut self, connection: Connection) {
        let token = self.next();
        self.free.pop();
        if !connection.served {
            self.unserved.push_back(token);
        }
        self.put(token, connection);
    }

    /// Takes out the connection that has been without an answer for longest.
    pub(super) fn take_oldest_unserved(&mut self) -> Option<Connection> {
        while let Some(token) = self.unserved.pop_front() {
            if !self.is_unserved(token) {
                continue;
            }
            let connection = self.take(token);
            self.free(token);
            return connection;
        }
        None
    }

    /// Since when the connection stands idle that does so for longest, where that is not past `until`; no connection
    /// becomes idle with an earlier time.
    pub(super) fn longest_idle(&mut self, until: u64) -> Option<u64> {
        loop {
            while let Some(&(token, since)) = self.idle.front() {
                if self.is_idle(token, since) {
                    return (since <= until).then_some(since);
                }
                self.idle.pop_front();
            }
            if self.none_until.is_some_and(|none| until <= none) {
                return None;
            }
            self.look_for_idle(until);
            if self.idle.is_empty() {
                self.none_until = Some(until);
                return None;
            }
        }
    }

    /// Ends the one that was told of last.
    pub(super) fn end_longest_idle(&mut self) -> bool {
        let Some((token, _)) = self.idle.pop_front() else { return false };
        let ended = self.take(token).is_some();
        if ended {
            self.free(token);
        }
        ended
    }

    fn look_for_idle(&mut self, until: u64) {
        let places = (0u32..).zip(&self.places);
        let mut found: Vec<(u64, u64)> = places
            .filter_map(|(at, (turn, connection))| {
                let connection = connection.as_ref().filter(|connection| is_idle(connection))?;
                let token = u64::from(*turn) << 32 | u64::from(at);
                (connection.since <= until).then_some((token, connection.since))
            })
            .collect();
        found.sort_unstable_by_key(|(_, since)| *since);
        found.truncate(LOOK);
        self.idle = found.into();
    }

    fn is_idle(&self, token: u64, since: u64) -> bool {
        let place = self.places.get(token as u32 as usize);
        place.is_some_and(|(turn, connection)| {
            let same = connection.as_ref().filter(|connection| connection.since == since);
            u64::from(*turn) == token >> 32 && same.is_some_and(is_idle)
        })
    }

    fn is_unserved(&self, token: u64) -> bool {
        let place = self.places.get(token as u32 as usize);
        place.is_some_and(|(turn, connection)| {
            u64::from(*turn) == token >> 32
                && connection.as_ref().is_some_and(|connection| !connection.served)
        })
    }

    pub(super) fn take(&mut self, token: u64) -> Option<Connection> {
        let (turn, place) = self.places.get_mut(token as u32 as usize)?;
        if u64::from(*turn) == token >> 32 { place.take() } else { None }
    }

    pub(super) fn put(&mut self, token: u64, connection: Connection) {
        if let Some((_, place)) = self.places.get_mut(token as u32 as usize) {
            *place = Some(connection);
        }
    }

    /// Gives up the place of a connection that was taken out.
    pub(super) fn free(&mut self, token: u64) {
        let at = token as u32;
        if let Some((turn, _)) = self.places.get_mut(at as usize) {
            // The topmost turns are left to tokens that are no connection's.
            *turn = turn.wrapping_add(1) & 0x7fff_ffff;
            self.free.push(at);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Connection) -> bool) {
        for (at, (turn, place)) in (0u32..).zip(&mut self.places) {
            if place.as_ref().is_some_and(|connection| !keep(connection)) {
                *place = None;
                *turn = turn.wrapping_add(1) & 0x7fff_ffff;
                self.free.push(at);
            }
        }
        let mut unserved = std::mem::take(&mut self.unserved);
        unserved.retain(|&token| self.is_unserved(token));
        self.unserved = unserved;
    }
}

/// Whether a connection was served and asks for nothing now, or has not finished asking.
fn is_idle(connection: &Connection) -> bool {
    let Connection { served, stage, output, .. } = connection;
    *served && *stage == Stage::Open && output.is_empty()
}
