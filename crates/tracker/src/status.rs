//! The status page, at `/`: what `/stats` tells and a little more, for people. Made here as a whole; it asks for a
//! style sheet of ours and for nothing else, and runs no script.

use std::{
    collections::VecDeque,
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    Listen,
    cluster::Member,
    directory::Sizes,
    forward::Health,
    stats::{Family, Requests, Stats, Top},
};

/// How it looks.
pub(crate) const STYLE: &str = include_str!("status/page.css");
/// The mark, for the browser's tab.
pub(crate) const ICON: &str = include_str!("status/icon.svg");
/// What the page may load: our style and our mark. Nothing runs, nobody frames it, it sends nothing.
pub(crate) const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; \
                                         form-action 'none'; frame-ancestors 'none'";
/// How many torrents it shows.
pub(crate) const TOP: usize = 20;

/// What it shows.
pub(crate) struct Page {
    pub(crate) stats: Stats,
    /// Whether the torrents may be seen, too.
    pub(crate) lists: bool,
    pub(crate) rates: PerSecond,
    /// With the protocol that each takes.
    pub(crate) listeners: Vec<(Listen, &'static str)>,
    pub(crate) forwarders: Vec<Health>,
    /// Where the directory is; without a home, in memory.
    pub(crate) home: Option<String>,
    /// Why not, where the directory does not answer.
    pub(crate) directory: Result<Sizes, String>,
    /// Why it takes nothing, where it does not.
    pub(crate) failing: Option<String>,
    pub(crate) etcd: Option<etcd::Stats>,
    pub(crate) waiting: usize,
    /// In bytes.
    pub(crate) memory: Option<u64>,
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Longshore tracker</title>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta http-equiv=\"refresh\" content=\"30\"><link rel=\"icon\" href=\"/favicon.ico\">\
             <link rel=\"stylesheet\" href=\"/status.css\"></head><body><header><div>\
             <svg viewBox=\"0 0 24 24\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2\" \
             stroke-linecap=\"round\" aria-hidden=\"true\"><path d=\"M12 3v11M7 6h10\"/>\
             <path d=\"M4 12c0 5 4 8 8 8s8-3 8-8\"/></svg>",
        )?;
        let Stats { version, uptime_seconds, .. } = &self.stats;
        write!(f, "<div><h1>Longshore tracker</h1><p>version {}</p></div>", Text(version))?;
        write!(f, "<p class=\"up\">up {}</p></div></header><main>", Lasting(*uptime_seconds))?;
        self.figures(f)?;
        f.write_str("<div class=\"pair\">")?;
        self.families(f)?;
        self.directory(f)?;
        f.write_str("</div>")?;
        requests(f, &self.stats.requests)?;
        f.write_str("<div class=\"pair\">")?;
        self.listeners(f)?;
        self.forwarders(f)?;
        f.write_str("</div>")?;
        cluster(f, &self.stats.members)?;
        if self.lists {
            torrents(f, &self.stats.top)?;
        }
        f.write_str(
            "</main><footer>The same for scripts: <a href=\"/stats.json\">stats.json</a>, \
             <a href=\"/metrics\">metrics</a> for Prometheus, <a href=\"/stats\">stats</a> as text.</footer>\
             </body></html>\n",
        )
    }
}

impl Page {
    fn figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stats { torrents, peers, ipv4, ipv6, connections, .. } = &self.stats;
        let PerSecond { announces, faults } = &self.rates;
        let memory = self.memory.map_or_else(|| "unknown".to_owned(), bytes);
        let connections = format!("with {} connections", Count(*connections as u64));
        let lately = "a second, of the last minute";
        let figures: [(&str, &dyn fmt::Display, &str); 6] = [
            ("Torrents", &Count(*torrents as u64), "with peers"),
            ("Peers", &Count(*peers as u64), "in all torrents"),
            ("Seeds", &Count(ipv4.seeds + ipv6.seeds), "have all of it"),
            ("Announces", &Rate(*announces), lately),
            ("Errors", &Rate(*faults), lately),
            ("Memory", &Text(&memory), &connections),
        ];
        f.write_str("<dl class=\"figures\">")?;
        for (name, value, more) in figures {
            write!(f, "<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>")?;
        }
        f.write_str("</dl>")
    }

    fn families(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "<section><h2>Peers by family</h2><div class=\"wide\"><table><tr><th>family<th class=\"n\">seeds\
             <th class=\"n\">leechers<th></tr>",
        )?;
        for (name, Family { seeds, leechers }) in [("IPv4", &self.stats.ipv4), ("IPv6", &self.stats.ipv6)] {
            let (seeds_shown, leechers_shown) = (Count(*seeds), Count(*leechers));
            write!(f, "<tr><td>{name}<td class=\"n\">{seeds_shown}<td class=\"n\">{leechers_shown}<td>")?;
            f.write_str(
                "<svg class=\"bar\" viewBox=\"0 0 100 7\" preserveAspectRatio=\"none\" role=\"img\">",
            )?;
            match (seeds * 100).checked_div(seeds + leechers) {
                Some(share) => write!(
                    f,
                    "<title>{share} % seeds</title><rect class=\"leechers\" width=\"100\" height=\"7\"/>\
                     <rect class=\"seeds\" width=\"{share}\" height=\"7\"/></svg></tr>"
                )?,
                None => f.write_str("<rect class=\"none\" width=\"100\" height=\"7\"/></svg></tr>")?,
            }
        }
        f.write_str("</table></div></section>")
    }

    fn directory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = self.home.as_deref().unwrap_or("in memory");
        write!(f, "<section><h2>Content directory</h2><p><code>{}</code></p><p>", Text(home))?;
        match (&self.directory, &self.failing, &self.etcd) {
            (Err(why), ..) => write!(f, "<span class=\"bad\">does not answer</span> {}", Text(why))?,
            (.., Some(etcd::Stats { reachable: false, failures, .. })) => {
                write!(
                    f,
                    "<span class=\"bad\">etcd did not answer the last call</span>, {}",
                    Count(*failures)
                )?;
                f.write_str(" so far")?;
            }
            (_, Some(why), _) => {
                write!(f, "<span class=\"bad\">is only read</span> nothing can be published: {}", Text(why))?;
            }
            _ => f.write_str("<span class=\"good\">answers</span>")?,
        }
        f.write_str("</p>")?;
        if let Ok(Sizes { entries, tags, leases }) = &self.directory {
            let waiting = Count(self.waiting as u64);
            let (entries, tags, leases) = (Count(*entries), Count(*tags), Count(*leases));
            write!(
                f,
                "<p class=\"soft\">{entries} blobs, {tags} tags, {leases} leases, {waiting} claims wait</p>"
            )?;
        }
        f.write_str("</section>")
    }

    fn listeners(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<section><h2>Listens on</h2><div class=\"wide\"><table>")?;
        for (listener, protocol) in &self.listeners {
            write!(f, "<tr><td><code>{}</code><td>{protocol}</tr>", Text(&listener.to_string()))?;
        }
        f.write_str("</table></div></section>")
    }

    fn forwarders(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<section><h2>Forwarders</h2>")?;
        if self.forwarders.is_empty() {
            return f.write_str("<p class=\"soft\">none</p></section>");
        }
        f.write_str("<div class=\"wide\"><table>")?;
        for Health { name, state, good, counts } in &self.forwarders {
            let class = match good {
                Some(true) => "good",
                Some(false) => "bad",
                None => "idle",
            };
            write!(
                f,
                "<tr><td>{}<td><span class=\"{class}\">{}</span><td class=\"soft\">",
                Text(name),
                Text(state)
            )?;
            for (n, (status, count)) in counts.iter().enumerate() {
                write!(f, "{}{} × {}", if n > 0 { ", " } else { "" }, Count(*count), Text(status))?;
            }
            f.write_str("</tr>")?;
        }
        f.write_str("</table></div></section>")
    }
}

fn requests(f: &mut fmt::Formatter<'_>, requests: &[Requests]) -> fmt::Result {
    f.write_str(
        "<section><h2>Asked since the start</h2><div class=\"wide\"><table><tr><th>protocol<th>family\
         <th class=\"n\">connects<th class=\"n\">announces<th class=\"n\">scrapes<th class=\"n\">errors<th></tr>",
    )?;
    let written = |name: &str| name.to_uppercase().replace("IPV", "IPv");
    for Requests { protocol, family, connects, announces, scrapes, faults, .. } in requests {
        let wrong: u64 = faults.iter().map(|(_, count)| count).sum();
        write!(f, "<tr><td>{}<td>{}", written(protocol), written(family))?;
        for count in [*connects, *announces, *scrapes, wrong] {
            write!(f, "<td class=\"n\">{}", Count(count))?;
        }
        f.write_str("<td class=\"soft\">")?;
        for (n, (fault, count)) in faults.iter().filter(|(_, count)| *count > 0).enumerate() {
            write!(f, "{}{} × {}", if n > 0 { ", " } else { "" }, Count(*count), Text(fault))?;
        }
        f.write_str("</tr>")?;
    }
    f.write_str("</table></div></section>")
}

fn cluster(f: &mut fmt::Formatter<'_>, members: &[Member]) -> fmt::Result {
    if members.is_empty() {
        return Ok(());
    }
    f.write_str(
        "<section><h2>Cluster</h2><div class=\"wide\"><table><tr><th>tracker<th><th>since\
         <th class=\"n\">peers learned<th class=\"n\">told<th class=\"n\">lag</tr>",
    )?;
    for member in members {
        let class = match (member.itself, member.connected) {
            (true, _) => "idle",
            (false, true) => "good",
            (false, false) => "bad",
        };
        write!(f, "<tr><td><code>{}</code>", Text(&member.member))?;
        write!(f, "<td><span class=\"{class}\">{}</span><td class=\"soft\">", member.state())?;
        if member.connected {
            write!(f, "{}", Lasting(member.connected_seconds))?;
        }
        let (received, sent) = (Count(member.received), Count(member.sent));
        write!(
            f,
            "<td class=\"n\">{received}<td class=\"n\">{sent}<td class=\"n\">{} ms</tr>",
            Count(member.lag_ms)
        )?;
    }
    f.write_str("</table></div></section>")
}

fn torrents(f: &mut fmt::Formatter<'_>, top: &[Top]) -> fmt::Result {
    f.write_str("<section><h2>Largest torrents</h2>")?;
    if top.is_empty() {
        return f.write_str("<p class=\"soft\">none yet</p></section>");
    }
    f.write_str(
        "<div class=\"wide\"><table><tr><th>info-hash<th class=\"n\">seeds<th class=\"n\">leechers\
         <th class=\"n\">completed<th class=\"n\">IPv4<th class=\"n\">IPv6</tr>",
    )?;
    for Top { info_hash, complete, incomplete, downloaded, ipv4, ipv6 } in top {
        write!(f, "<tr><td><code>{}</code>", Text(info_hash))?;
        for count in [complete, incomplete, downloaded, ipv4, ipv6] {
            write!(f, "<td class=\"n\">{}", Count(u64::from(*count)))?;
        }
        f.write_str("</tr>")?;
    }
    f.write_str("</table></div></section>")
}

/// Text as HTML has it, in content and in attributes.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            letter => f.write_char(letter),
        })
    }
}

/// A number with its thousands apart.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        digits.chars().enumerate().try_for_each(|(at, digit)| {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_char('\u{202f}')?;
            }
            f.write_char(digit)
        })
    }
}

/// So many a second.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > 0.0 && self.0 < 10.0 { write!(f, "{:.1}", self.0) } else { Count(self.0 as u64).fmt(f) }
    }
}

/// Seconds, as people say them.
struct Lasting(u64);

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, hours, minutes) = (self.0 / 86_400, self.0 / 3600 % 24, self.0 / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{} s", self.0),
            (0, 0, _) => write!(f, "{minutes} min"),
            (0, ..) => write!(f, "{hours} h {minutes} min"),
            _ => write!(f, "{days} d {hours} h"),
        }
    }
}

fn bytes(bytes: u64) -> String {
    match bytes >> 20 {
        0..10_240 => format!("{} MiB", Count(bytes >> 20)),
        more => format!("{} GiB", Count(more >> 10)),
    }
}

/// Announces and faults, a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PerSecond {
    pub(crate) announces: f64,
    pub(crate) faults: f64,
}

/// Announces and faults of the last minute.
#[derive(Default)]
pub(crate) struct Rates(Mutex<VecDeque<(Duration, [u64; 2])>>);

impl Rates {
    /// How often they are to be noted.
    pub(crate) const EVERY: Duration = Duration::from_secs(10);
    /// How many notes make up a minute.
    const NOTES: usize = 6;

    /// Takes note of how many announces and faults there have been by `now`.
    pub(crate) fn note(&self, now: Duration, counts: [u64; 2]) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push_back((now, counts));
        if notes.len() > Self::NOTES {
            notes.pop_front();
        }
    }

    /// So many a second from the oldest note, or the start, to `now`.
    pub(crate) fn per_second(&self, now: Duration, counts: [u64; 2]) -> PerSecond {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, before) = notes.front().copied().unwrap_or_default();
        // In the first moments one announce is no hundred a second.
        let seconds = now.saturating_sub(then).as_secs_f64().max(1.0);
        let [announces, faults] = std::array::from_fn(|n| match (counts.get(n), before.get(n)) {
            (Some(now), Some(before)) => now.saturating_sub(*before) as f64 / seconds,
            _ => 0.0,
        });
        PerSecond { announces, faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_others_named_is_taken_for_html() {
        let evil = "<script>alert('x')</script>\"&";
        let member = Member {
            member: evil.to_owned(),
            itself: false,
            connected: true,
            connected_seconds: 3700,
            sent: 1,
            received: 54_321,
            dropped: 0,
            resyncs: 0,
            lag_ms: 3,
        };
        let page = Page {
            stats: Stats { members: vec![member], ..Stats::default() },
            lists: true,
            rates: PerSecond { announces: 0.5, faults: 1234.0 },
            listeners: vec![(Listen::Unix(format!("/run/{evil}").into()), "http")],
            forwarders: vec![Health {
                name: evil.to_owned(),
                state: evil.to_owned(),
                good: Some(false),
                counts: vec![(evil.to_owned(), 1_234_567)],
            }],
            home: Some(format!("etcd://{evil}")),
            directory: Err(evil.to_owned()),
            failing: None,
            etcd: None,
            waiting: 0,
            memory: Some(20 << 20),
        };
        let html = page.to_string();
        assert!(!html.contains("<script") && !html.contains("alert('"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;").count(), 7);
        for part in [
            "unix:/run/",
            "<td>http</tr>",
            "1\u{202f}234\u{202f}567",
            "20 MiB",
            "0.5<small>",
            "does not answer",
            "54\u{202f}321",
            "1 h 1 min",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        // What the policy forbids is not there to be forbidden, nor is anything of elsewhere.
        for part in [" style=", "<style", "http://", "https://", "onclick", "src="] {
            assert!(!html.contains(part), "{part} in {html}");
        }
    }

    #[test]
    fn rates_are_of_the_last_minute() {
        let (rates, at) = (Rates::default(), Duration::from_secs);
        assert_eq!(rates.per_second(Duration::ZERO, [5, 0]), PerSecond { announces: 5.0, faults: 0.0 });
        (0..=20).for_each(|step| rates.note(at(10 * step), [1000 * step, 10]));
        let PerSecond { announces, faults } = rates.per_second(at(210), [21_000, 130]);
        assert!((announces - 100.0).abs() < 1e-9 && (faults - 2.0).abs() < 1e-9, "{announces} {faults}");
    }

    #[test]
    fn figures_read_well() {
        let text = |value: &dyn fmt::Display| value.to_string();
        assert_eq!(text(&Count(0)) + &text(&Count(1000)), "01\u{202f}000");
        assert_eq!(
            [59, 60, 3700, 90_000].map(|s| text(&Lasting(s))),
            ["59 s", "1 min", "1 h 1 min", "1 d 1 h"]
        );
        assert_eq!([0.0, 0.25, 12.7].map(|rate| text(&Rate(rate))), ["0", "0.2", "12"]);
        assert_eq!(bytes(11 << 30), "11 GiB");
    }
}
