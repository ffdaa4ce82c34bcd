//! Names of the lab's hosts: a DNS server that knows `n1.lab` and nothing else (RFC 1035).

use std::{
    io,
    net::{Ipv4Addr, UdpSocket as StdSocket},
    sync::Arc,
};

use tokio::net::UdpSocket;

use crate::{LabError, lasting::state::Lab, netns};

/// Where the names of hosts end.
const ZONE: &str = ".lab";
/// The longest question that is read.
const LONGEST: usize = 1232;
/// How long an answer may be remembered, in seconds: addresses never change, but hosts come.
const LIFE: u32 = 5;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

/// Answers until the lab ends.
pub(crate) async fn begin(lab: &Arc<Lab>) -> Result<(), LabError> {
    let address = lab.resolver();
    let bind = move || {
        let socket = StdSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok::<_, io::Error>(socket)
    };
    let failed = |source| LabError::Listen { what: "the DNS server".into(), address, source };
    let socket = netns::inside(lab.namespace("tracker"), bind).await?.map_err(failed)?;
    let socket = UdpSocket::from_std(socket).map_err(failed)?;
    let answering = serve(lab.clone(), socket);
    lab.tasks.spawn(lab.stop.clone().run_until_cancelled_owned(answering));
    Ok(())
}

async fn serve(lab: Arc<Lab>, socket: UdpSocket) {
    let mut packet = [0; LONGEST];
    loop {
        // An error is an answer that found nobody; the next question is another's.
        let Ok((length, from)) = socket.recv_from(&mut packet).await else { continue };
        let known = |name: &str| lab.host(name).ok().map(|entry| lab.ip(&entry.seat));
        if let Some(answer) = answer(packet.get(..length).unwrap_or_default(), known) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// The answer to a packet; none to what is no question.
fn answer(packet: &[u8], known: impl FnOnce(&str) -> Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (id, flags, questions) = (word(0)?, word(2)?, word(4)?);
    // An answer, which must not be answered.
    if flags & 0x8000 != 0 || packet.len() < HEADER {
        return None;
    }
    let head = |code: u16, questions: u16, answers: u16| {
        // An answer, with authority, of the same kind; whether more was wished for is repeated.
        let flags = 0x8400 | flags & 0x7900 | code;
        let words = [id, flags, questions, answers, 0, 0];
        words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>()
    };
    if flags & 0x7800 != 0 {
        return Some(head(4, 0, 0));
    }
    let asked = (questions == 1).then(|| question(packet)).flatten();
    let Some(Question { name, end, kind, class }) = asked else { return Some(head(1, 0, 0)) };
    let host = name.strip_suffix(ZONE).unwrap_or(&name);
    let address = known(host);
    let fits = class == CLASS_IN && (kind == TYPE_A || kind == TYPE_ANY);
    let (code, address) = match address {
        None => (3, None),
        Some(address) => (0, fits.then_some(address)),
    };
    let mut answer = head(code, 1, u16::from(address.is_some()));
    answer.extend_from_slice(packet.get(HEADER..end)?);
    if let Some(address) = address {
        // Its name is that of the question.
        answer.extend_from_slice(&[0xc0, HEADER as u8]);
        answer.extend([TYPE_A, CLASS_IN].iter().flat_map(|word| word.to_be_bytes()));
        answer.extend_from_slice(&LIFE.to_be_bytes());
        answer.extend_from_slice(&4u16.to_be_bytes());
        answer.extend_from_slice(&address.octets());
    }
    Some(answer)
}

struct Question {
    /// In small letters, without the dot at its end.
    name: String,
    /// Where it ends in the packet.
    end: usize,
    kind: u16,
    class: u16,
}

fn question(packet: &[u8]) -> Option<Question> {
    let (mut name, mut at) = (String::new(), HEADER);
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        // Pointers have no place in the first name of a packet.
        if length > 63 || name.len() > 255 {
            return None;
        }
        let label = packet.get(at..at + length)?;
        at += length;
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    Some(Question { name, end: at + 4, kind: word(at)?, class: word(at + 2)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut packet = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            packet.push(label.len() as u8);
            packet.extend_from_slice(label.as_bytes());
        }
        packet.push(0);
        packet.extend_from_slice(&[(kind >> 8) as u8, kind as u8, 0, 1]);
        packet
    }

    fn known(name: &str) -> Option<Ipv4Addr> {
        (name == "n1").then_some(Ipv4Addr::new(10, 99, 1, 1))
    }

    #[test]
    fn a_host_is_known_by_its_name_in_any_letters() {
        for name in ["n1.lab", "N1.Lab", "n1"] {
            let answer = answer(&ask(name, TYPE_A), known).expect("an answer");
            assert_eq!(answer[..8], [7, 7, 0x85, 0, 0, 1, 0, 1], "{name}");
            assert_eq!(answer[answer.len() - 4..], [10, 99, 1, 1]);
        }
    }

    #[test]
    fn a_host_has_no_other_addresses_and_others_are_not_there() {
        let count = |answer: &[u8]| (answer[3] & 15, answer[7]);
        assert_eq!(count(&answer(&ask("n1.lab", 28), known).expect("an answer")), (0, 0));
        for name in ["n2.lab", "n1.example", "lab", "n1.lab.lab"] {
            assert_eq!(count(&answer(&ask(name, TYPE_A), known).expect("an answer")), (3, 0), "{name}");
        }
    }

    #[test]
    fn what_is_no_question_gets_no_answer_or_a_refusal() {
        let mut an_answer = ask("n1.lab", TYPE_A);
        an_answer[2] |= 0x80;
        assert_eq!(answer(&an_answer, known), None);
        let mut an_update = ask("n1.lab", TYPE_A);
        an_update[2] = 0x28;
        assert_eq!(answer(&an_update, known).expect("an answer")[3] & 15, 4);
        let cut = &ask("n1.lab", TYPE_A)[..20];
        assert_eq!(answer(cut, known).expect("an answer")[3] & 15, 1);
    }

    proptest! {
        #[test]
        fn any_packet_is_answered_in_bounds_or_not_at_all(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(answer) = answer(&packet, known) {
                prop_assert!(answer.len() <= packet.len() + 16);
                prop_assert_eq!(&answer[..2], &packet[..2]);
                prop_assert!(answer[2] & 0x80 != 0);
            }
        }

        #[test]
        fn any_name_is_looked_up_as_it_was_asked(labels in proptest::collection::vec("[a-z0-9-]{1,20}", 1..6)) {
            let name = labels.join(".");
            let mut asked = None;
            answer(&ask(&name, TYPE_A), |name| { asked = Some(name.to_owned()); None });
            prop_assert_eq!(asked.as_deref(), Some(name.strip_suffix(ZONE).unwrap_or(&name)));
        }
    }
}
