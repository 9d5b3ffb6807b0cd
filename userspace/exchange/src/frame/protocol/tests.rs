// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The table is that of the document, has all frames and no rule twice. The tests of the crate (`tests`) hold both ends
//! against it.

use std::fmt::Debug;

use bytes::{BufMut, BytesMut};

use super::*;
use crate::frame::{decode, Frame, FrameError, Reply, Request, HEADER_SIZE};

/// The cells of the rows of a table in the document, which has this first row.
fn rows(head: &str) -> Vec<Vec<String>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../Documentation/peer-protocol.md"
    );
    let document = std::fs::read_to_string(path).unwrap();
    let lines = document.lines().skip_while(|line| *line != head).skip(2);
    let cells = |line: &str| {
        let line = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(line.split('|').map(|cell| cell.trim().into()).collect())
    };
    lines.map_while(cells).collect()
}

fn names<T: Debug>(all: &[T]) -> String {
    let names: Vec<_> = all.iter().map(|one| format!("{one:?}")).collect();
    names.join(", ")
}

/// The rows of a request.
fn rows_of(protocol: &Protocol) -> Vec<Vec<String>> {
    let first = match protocol.request {
        RequestKind::Other => [String::new(), "any other".into()],
        kind => [(kind as u8).to_string(), format!("{kind:?}")],
    };
    let pattern = match protocol.pattern {
        Pattern::Silent => String::new(),
        pattern => names(&[pattern]).to_lowercase(),
    };
    let rules = protocol.rules.iter().map(|rule| {
        [
            names(&[rule.state]).to_lowercase(),
            names(rule.replies),
            names(rule.next).to_lowercase(),
        ]
    });
    let mut rows: Vec<Vec<String>> = rules
        .map(|rule| [vec![String::new(); 3], rule.into()].concat())
        .collect();
    if rows.is_empty() {
        rows.push(vec![String::new(); 6]);
    }
    for (cell, text) in rows[0].iter_mut().zip(first.into_iter().chain([pattern])) {
        *cell = text;
    }
    rows
}

#[test]
fn the_document_has_the_same_table() {
    let expected: Vec<_> = PROTOCOLS.iter().flat_map(rows_of).collect();
    let documented = rows("| type | request | pattern | state | replies | next state |");
    let text = |rows: &[Vec<String>]| {
        let line = |row: &Vec<String>| format!("| {} |\n", row.join(" | ")).replace("  ", " ");
        rows.iter().map(line).collect::<String>()
    };
    assert!(
        documented == expected,
        "The document has\n{}and this is\n{}",
        text(&documented),
        text(&expected)
    );
}

#[test]
fn the_document_has_the_same_types() {
    let mut expected: Vec<(u8, String, &str)> = Vec::new();
    for protocol in PROTOCOLS {
        if protocol.request != RequestKind::Other {
            let kind = protocol.request;
            expected.push((kind as u8, format!("{kind:?}"), "client"));
        }
    }
    let replies = ReplyKind::ALL.iter();
    expected.extend(replies.map(|kind| (*kind as u8, format!("{kind:?}"), "server")));
    let documented = rows("| type | | from | payload | served |");
    assert_eq!(documented.len(), expected.len());
    for (row, (number, name, from)) in documented.iter().zip(expected) {
        assert_eq!(row[..3], [number.to_string(), name, from.into()]);
    }
}

/// The name of the frames of a type, if the decoder knows it: `name` is that of a whole frame.
fn name_of<F: Frame>(kind: u8, name: impl Fn(F) -> Option<String>) -> Option<String> {
    let mut bytes = BytesMut::new();
    // The header of a frame without a payload.
    bytes.put_u32_le(HEADER_SIZE as u32 - 4);
    bytes.put_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    match decode::<F>(&mut bytes) {
        Ok(frame) => name(frame.unwrap()),
        Err(FrameError::Malformed(name)) => Some(name.into()),
        Err(FrameError::Direction(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Whoever adds a frame adds it here too.
#[test]
fn all_frames_that_can_be_read_are_in_the_table() {
    for number in 0..=u8::MAX {
        let mut requests = PROTOCOLS.iter().map(|protocol| protocol.request);
        let request = requests.find(|kind| *kind as u8 == number && *kind != RequestKind::Other);
        let known = name_of(number, |request: Request| match request.kind() {
            RequestKind::Other => None,
            kind => Some(format!("{kind:?}")),
        });
        assert_eq!(request.map(|kind| format!("{kind:?}")), known, "{number}");

        let reply = ReplyKind::ALL.iter().find(|kind| **kind as u8 == number);
        let known = name_of(number, |reply: Reply| Some(format!("{:?}", reply.kind()?)));
        assert_eq!(reply.map(|kind| format!("{kind:?}")), known, "{number}");
    }
}

#[test]
fn there_is_one_rule_for_each_reply_in_each_state() {
    for (place, protocol) in PROTOCOLS.iter().enumerate() {
        let before = &PROTOCOLS[..place];
        assert!(before.iter().all(|other| other.request != protocol.request));
        assert_eq!(
            protocol.rules.is_empty(),
            protocol.pattern == Pattern::Silent
        );
        let states = protocol.rules.iter().map(|rule| rule.state);
        assert!(states.clone().all(|state| state != Done));
        for (state, kind) in
            states.flat_map(|state| ReplyKind::ALL.iter().map(move |kind| (state, kind)))
        {
            let rules = protocol.rules.iter();
            let rules = rules.filter(|rule| rule.state == state && rule.replies.contains(kind));
            assert!(
                rules.count() <= 1,
                "{:?} {state:?} {kind:?}",
                protocol.request
            );
        }
    }
}

/// A server refuses by these whatever it can't or will not answer, and does not look what it has said before.
#[test]
fn any_request_can_be_refused_in_any_state() {
    for protocol in PROTOCOLS {
        for rule in protocol.rules {
            for refusal in [Busy, NotServed] {
                let mut conversation = Conversation {
                    protocol,
                    state: rule.state,
                };
                assert_eq!(conversation.reply(refusal, Done), Ok(()));
            }
        }
    }
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut conversation = Conversation::new(RequestKind::WantChunks);
    conversation.reply(ChunkData, Begun).unwrap();
    for (reply, next) in [(ChunkNotFound, Open), (Busy, Open), (Presence, Done)] {
        let unfit = Unfit {
            request: RequestKind::WantChunks,
            state: Begun,
            reply,
            next,
        };
        assert_eq!(conversation.reply(reply, next), Err(unfit));
        assert_eq!(conversation.state(), Begun);
    }
    conversation.reply(ChunkData, Done).unwrap();
    assert!(conversation.reply(Busy, Done).is_err());
}
