//! When to tell the local network of which torrent, and whether to answer what others tell. Pure: time comes from
//! outside.

use std::{collections::BTreeMap, time::Duration};

use announce::local;
use metainfo::InfoHash;
use swarm::Time;

/// How long after one announce of a download the next comes. The standard's pause is the last: a host that has just begun
/// and is waited for should find the others at once.
const AGAIN: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(8),
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// So many packets may go out at once.
const BURST: u32 = 10;
/// After which another may.
const REFILL: Duration = Duration::from_secs(2);
/// How long at most an answer waits, for others to be the faster.
const SHY: Duration = Duration::from_millis(200);
/// Who has heard so many others answer does not.
const ENOUGH: u32 = 4;
/// A torrent that was answered for is not answered for again for this long.
const ANSWERED: Duration = Duration::from_secs(2);
/// Most downloads, and most answers, that are kept in mind.
const MOST: usize = 1000;

/// What is to be told.
#[derive(Debug)]
pub(crate) struct Plan {
    downloads: BTreeMap<InfoHash, Download>,
    answers: BTreeMap<InfoHash, Answer>,
    packets: Allowance,
    reads: Allowance,
    lookups: Allowance,
}

#[derive(Debug)]
struct Download {
    next: Time,
    told: usize,
}

#[derive(Debug)]
struct Answer {
    /// When it is due; none once it is given or need not be.
    due: Option<Time>,
    /// Others that have answered.
    others: u32,
    since: Time,
}

/// A packet to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) complete: bool,
    pub(crate) info_hashes: Vec<InfoHash>,
}

impl Plan {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            downloads: BTreeMap::new(),
            answers: BTreeMap::new(),
            packets: Allowance { left: BURST, most: BURST, each: REFILL, since: now },
            reads: Allowance { left: 500, most: 500, each: Duration::from_millis(5), since: now },
            lookups: Allowance { left: 50, most: 50, each: Duration::from_millis(20), since: now },
        }
    }

    /// These are the torrents that are fetched now.
    pub(crate) fn set_downloads(&mut self, now: Time, mut downloads: Vec<InfoHash>) {
        downloads.truncate(MOST);
        downloads.sort_unstable();
        self.downloads.retain(|info_hash, _| downloads.binary_search(info_hash).is_ok());
        for info_hash in downloads {
            self.downloads.entry(info_hash).or_insert(Download { next: now, told: 0 });
        }
    }

    /// Whether a packet that came may be read; others are passed over.
    pub(crate) fn may_read(&mut self, now: Time) -> bool {
        self.reads.take(now)
    }

    /// Whether it may be looked up whether a torrent lies here, which costs something.
    pub(crate) fn may_look(&mut self, now: Time) -> bool {
        self.lookups.take(now)
    }

    /// Somebody wants a torrent that is complete here. `lot` is between 0 and 1.
    pub(crate) fn wanted(&mut self, now: Time, info_hash: InfoHash, lot: f64) {
        self.answers.retain(|_, answer| now.since(answer.since) < ANSWERED);
        if self.answers.len() < MOST {
            let due = Some(now + SHY.mul_f64(lot.clamp(0.0, 1.0)));
            self.answers.entry(info_hash).or_insert(Answer { due, others: 0, since: now });
        }
    }

    /// Another has told that it has a torrent.
    pub(crate) fn answered_by_another(&mut self, info_hash: InfoHash) {
        if let Some(answer) = self.answers.get_mut(&info_hash) {
            answer.others += 1;
            if answer.others >= ENOUGH {
                answer.due = None;
            }
        }
    }

    /// The next packet, if one is due and may go out.
    pub(crate) fn packet(&mut self, now: Time) -> Option<Packet> {
        let answers: Vec<InfoHash> = self
            .answers
            .iter()
            .filter(|(_, a)| a.due.is_some_and(|due| due <= now))
            .map(|(i, _)| *i)
            .collect();
        let downloads: Vec<InfoHash> =
            self.downloads.iter().filter(|(_, d)| d.next <= now).map(|(info_hash, _)| *info_hash).collect();
        let complete = !answers.is_empty();
        let mut info_hashes = if complete { answers } else { downloads };
        if info_hashes.is_empty() || !self.packets.take(now) {
            return None;
        }
        info_hashes.truncate(local::MOST);
        for info_hash in &info_hashes {
            if complete && let Some(answer) = self.answers.get_mut(info_hash) {
                (answer.due, answer.since) = (None, now);
            } else if let Some(download) = self.downloads.get_mut(info_hash) {
                let pause = AGAIN.get(download.told).or(AGAIN.last()).copied().unwrap_or_default();
                (download.next, download.told) = (now + pause, download.told + 1);
            }
        }
        Some(Packet { complete, info_hashes })
    }

    /// When [`Self::packet`] is to be asked again.
    pub(crate) fn next(&self) -> Option<Time> {
        let answers = self.answers.values().filter_map(|answer| answer.due);
        let due = answers.chain(self.downloads.values().map(|download| download.next)).min()?;
        Some(due.max(self.packets.next()))
    }
}

/// So many at once, and then one after each pause.
#[derive(Debug)]
struct Allowance {
    left: u32,
    most: u32,
    each: Duration,
    since: Time,
}

impl Allowance {
    fn take(&mut self, now: Time) -> bool {
        while self.left < self.most && now.since(self.since) >= self.each {
            (self.left, self.since) = (self.left + 1, self.since + self.each);
        }
        if self.left == self.most {
            self.since = now;
        }
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        taken
    }

    fn next(&self) -> Time {
        if self.left > 0 { Time(0) } else { self.since + self.each }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u32) -> InfoHash {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        InfoHash::from_bytes(bytes)
    }

    #[test]
    fn a_download_is_told_at_once_and_then_ever_less_often() {
        let mut now = Time(0);
        let mut plan = Plan::new(now);
        plan.set_downloads(now, vec![hash(1), hash(2)]);
        let told = Packet { complete: false, info_hashes: vec![hash(1), hash(2)] };
        assert_eq!(plan.packet(now), Some(told));
        for pause in AGAIN.into_iter().chain([AGAIN[4]; 3]) {
            assert_eq!(plan.packet(now), None);
            assert_eq!(plan.next(), Some(now + pause));
            now = now + pause;
            assert!(plan.packet(now).is_some());
        }
        plan.set_downloads(now, vec![]);
        assert_eq!(plan.next(), None, "nothing that rests has a timer");
    }

    #[test]
    fn whoever_wants_what_is_here_is_answered_once_unless_enough_others_do() {
        let mut plan = Plan::new(Time(0));
        plan.wanted(Time(0), hash(1), 1.0);
        assert_eq!(plan.packet(Time(0)), None, "others may be the faster");
        plan.answered_by_another(hash(1));
        let now = Time(0) + SHY;
        assert_eq!(plan.next(), Some(now));
        assert_eq!(plan.packet(now), Some(Packet { complete: true, info_hashes: vec![hash(1)] }));
        plan.wanted(now, hash(1), 0.0);
        assert_eq!(plan.packet(now), None, "it was answered just now");
        let later = now + ANSWERED;
        plan.wanted(later, hash(1), 1.0);
        for _ in 0..ENOUGH {
            plan.answered_by_another(hash(1));
        }
        assert_eq!(plan.packet(later + SHY), None);
        assert_eq!(plan.next(), None);
    }

    #[test]
    fn packets_and_what_is_kept_in_mind_have_bounds() {
        let mut plan = Plan::new(Time(0));
        for n in 0..3 * MOST as u32 {
            plan.wanted(Time(0), hash(n), 0.0);
        }
        assert_eq!(plan.answers.len(), MOST);
        plan.set_downloads(Time(0), (0..3 * MOST as u32).map(hash).collect());
        assert_eq!(plan.downloads.len(), MOST);
        let sent = std::iter::from_fn(|| plan.packet(Time(0))).map(|packet| packet.info_hashes.len());
        assert_eq!(sent.collect::<Vec<_>>(), [local::MOST; BURST as usize]);
        assert_eq!(plan.next(), Some(Time(0) + REFILL));
        assert!(plan.packet(Time(0) + REFILL).is_some());
        assert!(plan.packet(Time(0) + REFILL).is_none());
        let looked = (0..1000).filter(|_| plan.may_look(Time(0))).count();
        assert_eq!(looked, 50);
        assert!(plan.may_look(Time(0) + Duration::from_millis(20)));
        assert!(!plan.may_look(Time(0) + Duration::from_millis(20)));
    }
}
