//! What can be done in a lab while it runs. Each action is done when its call returns, but for pulls, whose end shows in
//! what the nodes tell.

use std::sync::Arc;

use api::lab::{HostKind, LabAction};
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

/// Why a cut is not possible on loopback.
const NO_LINKS: &str = "this lab has no links that could be cut: without --netns its hosts share the machine's loopback; raise it \
    with --netns, or stop the host";

impl Lab {
    /// Does it.
    ///
    /// # Errors
    /// Why it cannot be done, in words.
    pub(crate) async fn act(self: &Arc<Self>, action: LabAction) -> Result<(), String> {
        match action {
            LabAction::Add { kind, count, zone } => self.add(kind, count, &zone).await,
            LabAction::Stop { host } => self.order(&host, What::Stop).await,
            LabAction::Kill { host } => self.order(&host, What::Kill).await,
            LabAction::Start { host } => self.order(&host, What::Start).await,
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
                let rests = traffic.pulls_per_minute == 0.0 && traffic.churn_per_minute == 0.0;
                self.set_traffic((!rests).then_some(traffic));
                Ok(())
            }
            LabAction::Down => {
                self.stop.cancel();
                Ok(())
            }
        }
    }

    async fn add(self: &Arc<Self>, kind: HostKind, count: usize, zone: &str) -> Result<(), String> {
        if !matches!(kind, HostKind::Seeder | HostKind::Leecher) {
            return Err("only seeders and leechers can be added".to_owned());
        }
        let zones = &self.topology().zones;
        let place = match zone {
            "" => 0,
            zone => self.topology().zone(zone).ok_or_else(|| {
                let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
                format!("there is no zone `{zone}`: there are {}", names.join(", "))
            })?,
        };
        // One at a time, so that no name and no address is given twice.
        let _turn = self.adding.acquire().await.map_err(|_| "the lab ends".to_owned())?;
        let there = self.hosts().iter().filter(|entry| entry.is_node()).count();
        if count == 0 || there.saturating_add(count) > MAX_NODES {
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
        for seat in seats {
            let name = seat.name.clone();
            supervisor::enter(self, seat).map_err(|error| error.to_string())?;
            self.order(&name, What::Start).await?;
            if kind == HostKind::Seeder {
                contents::seed_late(self, &name);
            }
        }
        Ok(())
    }

    async fn set_links(&self, from: &str, to: Option<&str>, up: bool) -> Result<(), String> {
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
            return self.set_between(from, to, up).await;
        }
        if let Some(place) = zone(from) {
            for other in (0..self.topology().zones.len()).filter(|other| *other != place) {
                self.set_between(place, other, up).await?;
            }
            return Ok(());
        }
        let entry = self.host(from).map_err(|unknown| match self.topology().zones.as_slice() {
            [] | [_] => unknown,
            zones => {
                let names: Vec<&str> = zones.iter().map(|zone| zone.name.as_str()).collect();
                format!("{unknown}; and the zones {}", names.join(", "))
            }
        })?;
        self.set_link(&entry, up).await
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

    async fn heal_all(&self) -> Result<(), String> {
        for entry in self.hosts().iter().filter(|entry| entry.info.cut) {
            self.set_link(entry, true).await?;
        }
        for (a, b) in self.cuts() {
            self.set_between(a, b, true).await?;
        }
        Ok(())
    }

    async fn limit(&self, host: &str, rate: Option<u64>) -> Result<(), String> {
        let entry = self.host(host)?;
        let rate = match rate {
            None => None,
            Some(bits) => Some(Rate::of_bits(bits).ok_or_else(|| {
                format!("{bits} bits per second are no link speed: from 64kbit to 100gbit")
            })?),
        };
        let mut seat = entry.seat.clone();
        seat.shape.rate = rate;
        if self.has_namespaces() {
            links::reshape(&self.id, &self.on_link(&seat)).await.map_err(|error| error.to_string())?;
        } else if !entry.is_node() {
            return Err(format!("without --netns only nodes can be limited, by themselves; {host} is none"));
        } else {
            self.limit_node(&entry, rate).await?;
        }
        self.change_host(host, |entry| {
            entry.seat = seat;
            entry.info.rate = rate.map(Rate::bits);
        });
        Ok(())
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
    fn pull(self: &Arc<Self>, host: Option<&str>, content: Option<&str>) -> Result<(), String> {
        if let Some(entry) = host.map(|name| self.host(name)).transpose()? {
            if matches!(entry.seat.kind, HostKind::Tracker | HostKind::Registry | HostKind::Web) {
                return Err(format!("{} gets nothing: name a node", entry.info.name));
            }
            if !entry.runs() {
                return Err(format!("{} does not run", entry.info.name));
            }
        }
        if content.is_some() || self.made.is_cancelled() {
            self.get(host, &self.things(content)?);
            return Ok(());
        }
        // What is being made is waited for.
        let (lab, host) = (self.clone(), host.map(str::to_owned));
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(async move {
            lab.made.cancelled().await;
            lab.get(host.as_deref(), &lab.things(None).unwrap_or_default());
        }));
        Ok(())
    }

    /// Has one host, or all that are there to get something, get things anew.
    fn get(self: &Arc<Self>, host: Option<&str>, things: &[Thing]) {
        let gets = |entry: &Entry| match host {
            Some(name) => entry.info.name == name,
            None => matches!(entry.seat.kind, HostKind::Leecher | HostKind::Foreign),
        };
        for entry in self.hosts().into_iter().filter(|entry| entry.runs() && gets(entry)) {
            contents::get_anew(self, &entry, things.to_vec());
        }
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
