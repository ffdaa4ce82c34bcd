//! What stands around the body of an answer.

use std::time::{Duration, UNIX_EPOCH};

/// The head of an answer, whose length is written when the body is there.
pub(super) struct Frame {
    /// Where the length's digits begin.
    length: usize,
    /// Where the body begins.
    body: usize,
}

/// More digits than any answer's length has.
const LENGTH_DIGITS: usize = 7;

impl Frame {
    pub(super) fn begin(out: &mut Vec<u8>, date: &Date, old: bool, keep_alive: bool) -> Self {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: ");
        out.extend_from_slice(&date.0);
        out.extend_from_slice(b"\r\nContent-Length: ");
        let length = out.len();
        out.extend_from_slice(&[b' '; LENGTH_DIGITS]);
        out.extend_from_slice(match (old, keep_alive) {
            (false, true) => b"\r\n\r\n",
            (true, true) => b"\r\nConnection: keep-alive\r\n\r\n",
            (_, false) => b"\r\nConnection: close\r\n\r\n",
        });
        Self { length, body: out.len() }
    }

    pub(super) fn end(self, out: &mut [u8]) {
        let mut length = out.len() - self.body;
        let digits = out.get_mut(self.length..self.length + LENGTH_DIGITS).unwrap_or_default();
        // Right-aligned: spaces before a field's value mean nothing.
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (length % 10) as u8;
            length /= 10;
            if length == 0 {
                break;
            }
        }
    }
}

/// The date of answers, made anew every second.
pub(super) struct Date([u8; 29]);

impl Default for Date {
    fn default() -> Self {
        Self(*b"Thu, 01 Jan 1970 00:00:00 GMT")
    }
}

impl Date {
    pub(super) fn set(&mut self, unix: u64) {
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix));
        if let Ok(date) = date.as_bytes().try_into() {
            self.0 = date;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_written_when_it_is_known() {
        for (body, length) in [(0, "      0"), (9, "      9"), (1_234_567, "1234567")] {
            let mut out = b"before".to_vec();
            let mut date = Date::default();
            date.set(784_111_777);
            let frame = Frame::begin(&mut out, &date, false, true);
            out.resize(out.len() + body, b'x');
            frame.end(&mut out);
            let head = String::from_utf8(out[..out.len() - body].to_vec()).expect("text");
            let all = format!(
                "beforeHTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                 Content-Length: {length}\r\n\r\n"
            );
            assert_eq!(head, all);
        }
    }
}
