// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Both ends of a stream keep to the table of what may answer what: all of it, and nothing else.

mod conversation;

use conversation::{ask, converse, table, tell, Choose, Seen};
use peerfs_exchange::frame::{Protocol, RequestKind, PROTOCOLS};
use proptest::prelude::*;

/// What happens in a conversation: enough that every rule of the table is used.
const EVENTS: usize = 9;

/// Has conversations about one request with all choices; what was accepted in any of them.
fn all(talk: fn(&[&'static Protocol], usize, Choose) -> Seen) -> Seen {
    let mut seen = Seen::new();
    for protocol in PROTOCOLS {
        // Each choice that was made, and between how many.
        let mut chosen: Vec<(usize, usize)> = Vec::new();
        loop {
            let mut place = 0;
            let mut choose = |count| {
                if place == chosen.len() {
                    chosen.push((0, count));
                }
                place += 1;
                chosen[place - 1].0
            };
            seen.extend(talk(&[protocol], EVENTS, &mut choose));
            // The last choice that was not the last one of its kind is the next one, and all after it are made anew.
            let open = chosen
                .iter()
                .rposition(|(choice, count)| choice + 1 < *count);
            let Some(last) = open else {
                break;
            };
            chosen.truncate(last + 1);
            chosen[last].0 += 1;
        }
    }
    seen
}

#[test]
fn a_requester_takes_what_the_table_has_and_nothing_else() {
    let mut expected = table();
    // What is never asked for.
    expected.retain(|(request, ..)| *request != RequestKind::Other);
    assert_eq!(all(tell), expected);
}

#[test]
fn a_responder_says_what_the_table_has_and_nothing_else() {
    assert_eq!(all(ask), table());
}

proptest! {
    /// What is asked for at once does not get mixed up.
    #[test]
    fn several_requests_are_several_conversations(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        converse(&bytes);
    }
}
