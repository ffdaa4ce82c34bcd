//! What can be done in a lab while it runs. Each action is done when its call returns, and says what it has done; but
//! the end of a pull shows in what the nodes tell.

use std::sync::Arc;

use api::lab::{HostKind, LabAction, LabDone, Traffic};
use reqwest::Method;
use serde_json::json;

use crate::{
    MAX_NODES, Rate,
    lasting::{
        contents::{self, Thing},
        host::What,
        state::{Entry, Lab},
        supervisor,
        topology::{Seat, check_traffic},
    },
    links,
};

/// How many are named one by one.
const NAMED: usize = 4;
/// Why a cut is not possible on loopback.
const NO_LINKS: &str = "this lab has no links that could be cut: without --netns its hosts share the machine's loopback; raise it \
    with --netns, or stop the host";
/// And so nothing is there to be healed.
const NOTHING_CUT: &str = "nothing is cut, and nothing can be: without --netns the hosts share the machine's loopback; \
    `lab start` brings back what was stopped or killed";

impl Lab {
    /// Does it, and says what it has done.
    ///
    /// # Errors
    /// Why it cannot be done, in words.
    pub(crate) async fn act(self: &Arc<Self>, action: LabAction) -> Result<LabDone, String> {
        match action {
            LabAction::Add { kind, count, zone } => self.add(kind, count, &zone).await,
            LabAction::Stop { host } => {
                self.order(&host, What::Stop).await?;
                Ok(done_to(&host, "stopped"))
            }
            LabAction::Kill { host } => {
                self.order(&host, What::Kill).await?;
                // What runs in this process knows no signals.
                let entry = self.host(&host)?;
                let server = matches!(entry.seat.kind, HostKind::Registry | HostKind::Web);
                Ok(done_to(&host, if server { "killed" } else { "killed (SIGKILL)" }))
            }
            LabAction::Start { host } => {
                self.order(&host, What::Start).await?;
                Ok(done_to(&host, "started"))
            }
            LabAction::Cut { from, to } => self.set_links(&from, to.as_deref(), false).await,
            LabAction::Heal { from: Some(from), to } => self.set_links(&from, to.as_deref(), true).await,
            LabAction::Heal { from: None, to: Some(_) } => {
                Err("say what to heal, or nothing at all".to_owned())
            }
            LabAction::Heal { from: None, to: None } => self.heal_all().await,
            LabAction::Limit { host, rate } => self.limit(&host, rate).await,
            LabAction::Pull { host, content } => self.pull(host.as_deref(), content.as_deref()),
            LabAction::Churn(traffic) => {
                check_traffic(&traffic).map_err(|error| error.to_string())?;
                let Traffic { pulls_per_minute: pulls, churn_per_minute: kills } = traffic;
                let rests = pulls == 0.0 && kills == 0.0;
                self.set_traffic((!rests).then_some(traffic));
                Ok(done(match rests {
                    true => "traffic: none".to_owned(),
                    false => format!("traffic: {pulls} pulls and {kills} kills per minute"),
                }))
            }
            LabAction::Down => {
                self.stop.cancel();
                Ok(done(format!("the lab {} ends", self.id)))
            }
        }
    }

    async fn add(self: &Arc<Self>, kind: HostKind, count: usize, zone: &str) -> Result<LabDone, String> {
        if !matches!(kind, HostKind::Seeder | HostKind::Leecher) {
            return Err("only seeders and leechers can be added".to_owned());
        }
        let zones = &self.topology().zones;
        let place = match zone {
            "" => 0,
            zone => self.topology().zone(zone).ok_or_else(|| {
                let names: Vec<&str> =
                    zones.iter().map(|zone| zone.name.as_str()).filter(|n| !n.is_empty()).collect();
                match names.is_empty() {
                    true => format!("there is no zone `{zone}`: this lab is a star, which has none"),
                    false => format!("there is no zone `{zone}`: there are {}", names.join(", ")),
                }
            })?,
        };
        // One at a time, so that no name and no address is given twice.
        let _turn = self.adding.acquire().await.map_err(|_| "the lab ends".to_owned())?;
        let there = self.hosts().iter().filter(|entry| entry.is_node()).count();
        if count == 0 {
            return Err("say how many to add: 1 or more".to_owned());
        }
        if there.saturating_add(count) > MAX_NODES {
            return Err(format!(
                "there are {there} nodes, and may be {MAX_NODES}: {count} more cannot be added"
            ));
        }
        let seats = self.further(kind, count, place);
        if self.has_namespaces() {
            let hosts: Vec<links::Host> = seats.iter().map(|seat| self.on_link(seat)).collect();
            for seat in &seats {
                links::set_resolver(&self.id, &seat.name, self.network.ip(0, 3, 1))
                    .map_err(|e| e.to_string())?;
            }
            links::attach(&self.id, zones.len(), &hosts).await.map_err(|error| error.to_string())?;
        }
        let addresses: Vec<String> = seats.iter().map(|seat| self.ip(seat).to_string()).collect();
        let mut hosts = Vec::new();
        for seat in seats {
            let name = seat.name.clone();
            hosts.push(name.clone());
            supervisor::enter(self, seat).map_err(|error| error.to_string())?;
            self.order(&name, What::Start).await?;
            if kind == HostKind::Seeder {
                contents::seed_late(self, &name);
            }
        }
        let zone = zones.get(place).filter(|_| zones.len() > 1);
        let zone = zone.map_or_else(String::new, |zone| format!(" to {}", zone.name));
        let words = format!("{} added{zone}, {}", range(&hosts), range(&addresses));
        Ok(LabDone { done: words, hosts })
    }

    async fn set_links(&self, from: &str, to: Option<&str>, up: bool) -> Result<LabDone, String> {
        if !self.has_namespaces() {
            return Err(NO_LINKS.to_owned());
        }
        let zone = |name: &str| self.topology().zone(name).filter(|_| self.topology().zones.len() > 1);
        if let Some(to) = to {
            let unknown = |name: &str| {
                let names: Vec<&str> = self.topology().zones.iter().map(|zone| zone.name.as_str()).collect();
                format!("there is no zone `{name}` beside others: there are {}", names.join(", "))
            };
            let from = zone(from).ok_or_else(|| unknown(from))?;
            let to = zone(to).ok_or_else(|| unknown(to))?;
            if from == to {
                return Err("a zone has no link to itself: name two".to_owned());
            }
            self.set_between(from, to, up).await?;
            return Ok(done(match up {
                true => format!("{} healed", self.pair((from, to))),
                false => format!("{} cut: nothing passes the link between them", self.pair((from, to))),
            }));
        }
        if let Some(place) = zone(from) {
            let others: Vec<usize> =
                (0..self.topology().zones.len()).filter(|other| *other != place).collect();
            for other in &others {
                self.set_between(place, *other, up).await?;
            }
            let others =
                list(&others.into_iter().map(|other| self.zone_name(other)).collect::<Vec<_>>(), "zones");
            return Ok(done(match up {
                true => format!("{from} healed: its links to {others}"),
                false => format!("{from} cut off: nothing passes its links to {others}"),
            }));
        }
        let entry = self.host(from).map_err(|unknown| match self.topology().zones.as_slice() {
            [] | [_] => unknown,
            zones => {
                let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
                format!("{unknown}; and the zones {}", names.join(", "))
            }
        })?;
        self.set_link(&entry, up).await?;
        Ok(done_to(from, if up { "healed" } else { "cut off: its link is down" }))
    }

    fn zone_name(&self, place: usize) -> String {
        self.topology().zones.get(place).map(|zone| zone.name.clone()).unwrap_or_default()
    }

    fn pair(&self, (a, b): (usize, usize)) -> String {
        format!("{} and {}", self.zone_name(a), self.zone_name(b))
    }

    async fn set_between(&self, a: usize, b: usize, up: bool) -> Result<(), String> {
        let zones = (a.min(b), a.max(b));
        links::set_between(&self.id, zones, up).await.map_err(|error| error.to_string())?;
        self.set_cut(zones, !up);
        Ok(())
    }

    async fn set_link(&self, entry: &Entry, up: bool) -> Result<(), String> {
        let Seat { name, zone, .. } = &entry.seat;
        links::set_link(&self.id, name, *zone, up).await.map_err(|error| error.to_string())?;
        self.change_host(name, |entry| entry.info.cut = !up);
        Ok(())
    }

    async fn heal_all(&self) -> Result<LabDone, String> {
        if !self.has_namespaces() {
            return Ok(done(NOTHING_CUT.to_owned()));
        }
        let (mut hosts, mut healed) = (Vec::new(), Vec::new());
        for entry in self.hosts().iter().filter(|entry| entry.info.cut) {
            self.set_link(entry, true).await?;
            hosts.push(entry.info.name.clone());
        }
        for (a, b) in self.cuts() {
            self.set_between(a, b, true).await?;
            healed.push(self.pair((a, b)));
        }
        healed.splice(0..0, (!hosts.is_empty()).then(|| list(&hosts, "hosts")));
        let words =
            if healed.is_empty() { "nothing is cut".to_owned() } else { healed.join("; ") + " healed" };
        Ok(LabDone { done: words, hosts })
    }

    async fn limit(&self, host: &str, rate: Option<u64>) -> Result<LabDone, String> {
        let entry = self.host(host)?;
        let rate = match rate {
            None => None,
            Some(bits) => Some(Rate::of_bits(bits).ok_or_else(|| {
                format!("{bits} bits per second are no link speed: from 64kbit to 100gbit")
            })?),
        };
        let mut seat = entry.seat.clone();
        seat.shape.rate = rate;
        let words = if self.has_namespaces() {
            links::reshape(&self.id, &self.on_link(&seat)).await.map_err(|error| error.to_string())?;
            rate.map_or_else(
                || "limited no more".to_owned(),
                |rate| format!("limited to {rate} each way, by its link"),
            )
        } else if !entry.is_node() {
            return Err(format!("without --netns only nodes can be limited, by themselves; {host} is none"));
        } else {
            self.limit_node(&entry, rate).await?;
            rate.map_or_else(
                || "limited no more".to_owned(),
                |rate| format!("limited to {rate} each way, by itself and towards peers alone (no --netns)"),
            )
        };
        self.change_host(host, |entry| {
            entry.seat = seat;
            entry.info.rate = rate.map(Rate::bits);
        });
        Ok(done_to(host, &words))
    }

    /// Has a node limit itself.
    async fn limit_node(&self, entry: &Entry, rate: Option<Rate>) -> Result<(), String> {
        let most = rate.map_or(0, |rate| rate.bits() / 8);
        let body = json!({ "down": most, "up": most });
        match self.call(entry, Method::PATCH, "/v1/limits", Some(body)).await? {
            true => Ok(()),
            false => Err(format!(
                "{} is of a build that cannot limit itself: raise the lab with --netns",
                entry.info.name
            )),
        }
    }

    /// Has nodes forget what they have and get it anew.
    fn pull(self: &Arc<Self>, host: Option<&str>, content: Option<&str>) -> Result<LabDone, String> {
        if let Some(entry) = host.map(|name| self.host(name)).transpose()? {
            if matches!(entry.seat.kind, HostKind::Tracker | HostKind::Registry | HostKind::Web) {
                return Err(format!("{} gets nothing: name a node", entry.info.name));
            }
            if !entry.runs() {
                return Err(format!("{} does not run", entry.info.name));
            }
        }
        if content.is_some() || self.made.is_cancelled() {
            return Ok(self.get(host, &self.things(content)?));
        }
        // What is being made is waited for.
        let (lab, named) = (self.clone(), host.map(str::to_owned));
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(async move {
            lab.made.cancelled().await;
            lab.get(named.as_deref(), &lab.things(None).unwrap_or_default());
        }));
        let who = host.map_or_else(|| "the leechers get".to_owned(), |host| format!("{host} gets"));
        Ok(done(format!("{who} the contents anew once they are made")))
    }

    /// Has one host, or all that are there to get something, get things anew.
    fn get(self: &Arc<Self>, host: Option<&str>, things: &[Thing]) -> LabDone {
        let gets = |entry: &Entry| match host {
            Some(name) => entry.info.name == name,
            None => matches!(entry.seat.kind, HostKind::Leecher | HostKind::Foreign),
        };
        let (mut hosts, mut kept) = (Vec::new(), Vec::new());
        for entry in self.hosts().into_iter().filter(|entry| entry.runs() && gets(entry)) {
            let name = entry.info.name.clone();
            let only = things.iter().filter(|thing| thing.has_only(&name)).map(|thing| &thing.content.name);
            kept.extend(only.map(|content| format!("{name} keeps {content}, which came from nowhere else")));
            contents::get_anew(self, &entry, things.to_vec());
            hosts.push(name);
        }
        let contents: Vec<String> = things.iter().map(|thing| thing.content.name.clone()).collect();
        let words = match (hosts.as_slice(), contents.is_empty()) {
            ([], _) => "nobody gets anything: no leecher runs".to_owned(),
            (_, true) => "nobody gets anything: there is no content".to_owned(),
            ([one], false) => format!("{one} gets {} anew", list(&contents, "contents")),
            (_, false) => format!("{} get {} anew", list(&hosts, "hosts"), list(&contents, "contents")),
        };
        kept.insert(0, words);
        LabDone { done: kept.join("; "), hosts }
    }
}

fn done(words: String) -> LabDone {
    LabDone { done: words, hosts: Vec::new() }
}

fn done_to(host: &str, words: &str) -> LabDone {
    LabDone { done: format!("{host} {words}"), hosts: vec![host.to_owned()] }
}

/// `n1, n2 and n3`, or how many there are.
fn list(names: &[String], what: &str) -> String {
    match names {
        [] => format!("no {what}"),
        [one] => one.clone(),
        [first @ .., last] if names.len() <= NAMED => format!("{} and {last}", first.join(", ")),
        _ => format!("{} {what}", names.len()),
    }
}

/// The first and the last of what follows one another.
fn range(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first, .., last] => format!("{first} to {last}"),
    }
}

/// Has a node that has just begun limit itself, where no link does it.
pub(crate) fn limit_by_itself(lab: &Arc<Lab>, name: &str) {
    let Ok(entry) = lab.host(name) else { return };
    let rate = entry.seat.shape.rate;
    // Whoever is there first gets what it is to hold without a limit.
    if lab.has_namespaces() || !entry.is_node() || rate.is_none() || !lab.shaped.is_cancelled() {
        return;
    }
    let limited = lab.clone();
    lab.tasks.spawn(async move {
        if let Err(words) = limited.limit_node(&entry, rate).await {
            limited.problem(words);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_named_and_many_counted() {
        let names = |count: usize| (1..=count).map(|at| format!("n{at}")).collect::<Vec<_>>();
        let listed = [0, 1, 2, 4, 5].map(|count| list(&names(count), "hosts"));
        assert_eq!(listed, ["no hosts", "n1", "n1 and n2", "n1, n2, n3 and n4", "5 hosts"]);
        assert_eq!([1, 2, 9].map(|count| range(&names(count))), ["n1", "n1 to n2", "n1 to n9"]);
    }
}
