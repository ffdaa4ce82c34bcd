//! The head of a request, read in place (RFC 9112), as far as announces and scrapes need it.
//!
//! Only a plain `GET` without a body is read here. Other requests are [`Parsed::Other`] and left to a whole HTTP
//! implementation.

/// What stands at the beginning of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The beginning of a head.
    Partial,
    /// A request without a body, and how many bytes it has.
    Get(Head<'a>, usize),
    /// Another request, or the beginning of one.
    Other,
    /// No request.
    Broken,
}

/// A request without a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head<'a> {
    /// The path, from its slash on.
    pub path: &'a [u8],
    /// What stands behind `?`.
    pub query: &'a [u8],
    /// Whether the client is of HTTP/1.0.
    pub old: bool,
    /// Whether the connection goes on behind the answer.
    pub keep_alive: bool,
    /// The lines with the other fields.
    fields: &'a [u8],
}

/// The longest method that anybody has thought of.
const MAX_METHOD: usize = 20;

/// The most header fields in a head: what the API takes as well.
const MAX_FIELDS: usize = 100;

impl<'a> Parsed<'a> {
    /// Reads as much as there is.
    pub fn read(bytes: &'a [u8]) -> Self {
        const METHOD: &[u8] = b"GET /";
        let Some(rest) = bytes.strip_prefix(METHOD) else {
            return if METHOD.starts_with(bytes) { Self::Partial } else { Self::of_method(bytes) };
        };
        let Some((line, mut rest)) = line(rest) else { return Self::Partial };
        let Some((target, old)) = request_line(line) else { return Self::Broken };
        // The slash belongs to it.
        let target = bytes.get(METHOD.len() - 1..METHOD.len() + target.len()).unwrap_or_default();
        let fields = rest;
        let mut keep_alive = !old;
        for _ in 0..=MAX_FIELDS {
            let Some((line, tail)) = self::line(rest) else { return Self::Partial };
            if line.is_empty() {
                let fields = fields.get(..fields.len() - rest.len()).unwrap_or_default();
                let query = memchr::memchr(b'?', target);
                let (path, query) = target.split_at(query.unwrap_or(target.len()));
                let query = query.get(1..).unwrap_or_default();
                return Self::Get(Head { path, query, old, keep_alive, fields }, bytes.len() - tail.len());
            }
            rest = tail;
            let Some((name, value)) = field(line) else { return Self::Broken };
            match name.len() {
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                        if option.eq_ignore_ascii_case(b"close") {
                            keep_alive = false;
                        } else if old && option.eq_ignore_ascii_case(b"keep-alive") {
                            keep_alive = true;
                        }
                    }
                }
                14 if name.eq_ignore_ascii_case(b"content-length") && value != b"0" => return Self::Other,
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return Self::Other,
                6 if name.eq_ignore_ascii_case(b"expect") => return Self::Other,
                _ => {}
            }
        }
        // Too many fields: the other implementation has the same bound, and the words for it.
        Self::Other
    }

    /// What begins with no `GET` and a path.
    fn of_method(bytes: &[u8]) -> Self {
        let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        match bytes.get(method) {
            _ if method > MAX_METHOD => Self::Broken,
            None => Self::Partial,
            Some(b' ') if method > 0 => Self::Other,
            Some(_) => Self::Broken,
        }
    }
}

impl<'a> Head<'a> {
    /// The values of a field, whose name is given in small letters, in order.
    pub fn field(&self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.fields;
        std::iter::from_fn(move || {
            let (line, tail) = line(rest)?;
            rest = tail;
            field(line)
        })
        .filter_map(move |(field, value)| field.eq_ignore_ascii_case(name).then_some(value))
    }
}

/// A line without its end, and what comes behind it. A bare line feed ends one too, as everywhere.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let (line, rest) = bytes.split_at(end);
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest.get(1..)?))
}

/// What stands between the first slash and the version, and whether that is HTTP/1.0.
fn request_line(line: &[u8]) -> Option<(&[u8], bool)> {
    let (target, old) = match line.strip_suffix(b" HTTP/1.1") {
        Some(target) => (target, false),
        None => (line.strip_suffix(b" HTTP/1.0")?, true),
    };
    // An info-hash that was not escaped may look like anything, but for what ends the target. Without a branch, as the
    // target is most of the head.
    let good = target.iter().fold(true, |good, &byte| good & (byte > b' ') & (byte != 0x7f));
    good.then_some((target, old))
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, value) = line.split_at(memchr::memchr(b':', line)?);
    let is_token = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic());
    is_token.then(|| (name, value.get(1..).unwrap_or_default().trim_ascii()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(bytes: &[u8]) -> (Head<'_>, usize) {
        match Parsed::read(bytes) {
            Parsed::Get(head, length) => (head, length),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_clients_send_is_read_in_place() {
        let request = b"GET /announce?info_hash=%01?x HTTP/1.1\r\nHost: t:6969\r\nUser-Agent: x/1\r\n\
            X-Real-IP: 10.0.0.1\r\nx-real-ip:10.0.0.2 \r\n\r\nGET /next";
        let (head, length) = get(request);
        assert_eq!((head.path, head.query), (&b"/announce"[..], &b"info_hash=%01?x"[..]));
        assert_eq!((head.keep_alive, head.old), (true, false));
        assert_eq!(&request[length..], b"GET /next");
        let ips: Vec<_> = head.field(b"x-real-ip").collect();
        assert_eq!(ips, [&b"10.0.0.1"[..], b"10.0.0.2"]);
        let (head, _) = get(b"GET / HTTP/1.0\n\n");
        assert_eq!((head.path, head.query, head.keep_alive, head.old), (&b"/"[..], &b""[..], false, true));
    }

    #[test]
    fn a_connection_goes_on_unless_it_is_said() {
        let keeps = |rest: &str| get(format!("GET /a HTTP/1.{rest}\r\n\r\n").as_bytes()).0.keep_alive;
        assert!(keeps("1") && keeps("1\r\nConnection: keep-alive") && keeps("1\r\nConnection: x,y"));
        assert!(keeps("0\r\nCONNECTION: Keep-Alive"));
        assert!(!keeps("1\r\nConnection: close") && !keeps("1\r\nconnection: TE , Close"));
        assert!(!keeps("0") && !keeps("0\r\nConnection: close"));
    }

    #[test]
    fn what_is_no_plain_get_is_left_to_others() {
        let others: [&[u8]; 7] = [
            b"POST /announce HTTP/1.1\r\n\r\n",
            b"HEAD /announce HTTP/1.1\r\n\r\n",
            b"OPTIONS * HTTP/1.1",
            b"GET http://t/announce HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
        ];
        for other in others {
            assert_eq!(Parsed::read(other), Parsed::Other, "{}", other.escape_ascii());
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(Parsed::read(many.as_bytes()), Parsed::Other);
        let fewer = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
        assert_eq!(get(fewer.as_bytes()).1, fewer.len());
        assert_eq!(get(b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").0.path, b"/");
    }

    #[test]
    fn what_is_no_request_is_known_at_once() {
        let broken: [&[u8]; 9] = [
            b"nonsense",
            b"\x16\x03\x01",
            b"\r\n",
            b"GETGETGETGETGETGETGETGET",
            b"GET /announce HTTP/2.0\r\n",
            b"GET /announce\r\n",
            b"GET /a b HTTP/1.1\r\n",
            b"GET /a\x01b HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n",
        ];
        for broken in broken {
            assert_eq!(Parsed::read(broken), Parsed::Broken, "{}", broken.escape_ascii());
        }
        for partial in [&b""[..], b"G", b"GET", b"GET ", b"GET /a", b"POST", b"GET / HTTP/1.1\r\nno colo"] {
            assert_eq!(Parsed::read(partial), Parsed::Partial, "{}", partial.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, head in "GET /[ -~]{0,9} HTTP/1.1\r\n") {
            for bytes in [&bytes[..], &[head.as_bytes(), &bytes].concat()] {
                if let Parsed::Get(head, length) = Parsed::read(bytes) {
                    prop_assert!(length <= bytes.len() && head.path.starts_with(b"/"));
                }
            }
        }

        #[test]
        fn the_beginning_of_a_request_waits_for_the_rest(
            target in "[!-~]{0,40}",
            fields in proptest::collection::vec(("[A-Za-z-]{1,12}", "[ -~]{0,20}"), 0..5),
            cut: proptest::sample::Index,
        ) {
            let mut request = format!("GET /{target} HTTP/1.1\r\n");
            for (name, value) in &fields {
                request += &format!("X-{name}: {value}\r\n");
            }
            request += "\r\n";
            let whole = request.as_bytes();
            let (head, length) = get(whole);
            prop_assert_eq!(length, whole.len());
            let joint: &[u8] = if target.contains('?') { b"?" } else { b"" };
            prop_assert_eq!([head.path, joint, head.query].concat(), format!("/{target}").into_bytes());
            prop_assert_eq!(Parsed::read(&whole[..cut.index(whole.len())]), Parsed::Partial);
        }
    }
}
