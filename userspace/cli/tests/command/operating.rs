// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `peerfs peers`, `unban`, `top` and `doctor`, with a daemon that is none, or without one.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use peerfs_control::{
    Activity, BanStatus, NetworkStatus, PeerClass, PeerDirection, PeerStatus, Peers, PullStatus,
    Reply, Request,
};
use serde_json::Value;

use crate::running::peerfs;

/// Answers each request, until the thread ends with the test.
fn daemon(socket: &Path, answer: impl Fn(Request) -> Reply + Send + 'static) {
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            let reply = answer(serde_json::from_str(&request).unwrap());
            let reply = serde_json::to_string(&reply).unwrap();
            writeln!(stream, "{reply}").unwrap();
        }
    });
}

fn peer(id: &str) -> PeerStatus {
    PeerStatus {
        id: id.to_owned(),
        address: "/ip4/192.0.2.1/tcp/4001".to_owned(),
        direction: PeerDirection::Outbound,
        class: PeerClass::Link,
        rtt_ms: Some(0.25),
        connected_ms: 190_000,
        bytes_received: 5 << 20,
        receive_rate: 2048,
        gives: vec!["ab".repeat(32), "cd".repeat(32)],
        ..PeerStatus::default()
    }
}

fn answer(request: Request) -> Reply {
    match request {
        Request::Peers => Reply::Peers(Peers {
            peers: vec![peer("12D3Near"), peer("12D3\x1b[2J")],
            banned: vec![BanStatus {
                id: "12D3Liar".to_owned(),
                until_ms: 86_400_000,
                times: 2,
                reason: "wrong bytes".to_owned(),
            }],
        }),
        Request::Unban {
            peer: Some(peer),
            all: false,
        } => Reply::Unbanned(vec![peer]),
        Request::Unban {
            peer: None,
            all: true,
        } => Reply::Unbanned(vec!["12D3One".to_owned(), "12D3Two".to_owned()]),
        Request::Activity => Reply::Activity(Activity {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: 60_000,
            open_files: 10,
            open_files_max: 65536,
            peers: vec![peer("12D3Near")],
            pulls: vec![PullStatus {
                image: "ef".repeat(32),
                total_bytes: Some(100),
                present_bytes: 50,
                ..PullStatus::default()
            }],
            network: NetworkStatus {
                listen_addresses: vec!["/ip4/192.0.2.2/tcp/4001".to_owned()],
                ..NetworkStatus::default()
            },
            ..Activity::default()
        }),
        other => Reply::Error(format!("{other:?}")),
    }
}

fn run(socket: &Path, command: &str, arguments: &[&str]) -> Output {
    let mut process = peerfs(Path::new("/nonexistent"), command);
    process.arg("--socket").arg(socket).args(arguments);
    process.output().unwrap()
}

#[track_caller]
fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn peers_are_listed_and_bans_lifted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    daemon(&socket, answer);
    let table = text(run(&socket, "peers", &[]));
    for part in [
        "12D3Near ",
        "link",
        "0.2 ms",
        "2.00 KiB",
        "5.00 MiB",
        "3m10s",
        "abababababab and 1 more",
        "12D3Liar",
        "1970-01-02 00:00:00 UTC",
        "wrong bytes",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(!table.contains('\x1b'), "{table}");
    let value: Value = serde_json::from_str(&text(run(&socket, "peers", &["--json"]))).unwrap();
    assert_eq!(value["peers"][0]["class"], "link");
    assert_eq!(value["banned"][0]["times"], 2);
    assert_eq!(text(run(&socket, "unban", &["12D3Liar"])), "12D3Liar\n");
    assert_eq!(
        text(run(&socket, "unban", &["--all"])),
        "12D3One\n12D3Two\n"
    );
    for wrong in [&[][..], &["--all", "12D3Liar"]] {
        assert_eq!(run(&socket, "unban", wrong).status.code(), Some(2));
    }
}

#[test]
fn top_prints_once_without_a_terminal_and_as_often_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    daemon(&socket, answer);
    let once = text(run(&socket, "top", &[]));
    for part in [
        "up 1m00s",
        "12D3Near",
        "efefefefefef",
        "50 %",
        "mDNS is off",
    ] {
        assert!(once.contains(part), "{part} in {once}");
    }
    assert!(!once.contains('\x1b'), "{once}");
    let thrice = text(run(&socket, "top", &["-b", "-n", "3", "-d", "0.1"]));
    assert_eq!(thrice.matches("up 1m00s").count(), 3);
    // Who reads it goes away.
    let mut endless = peerfs(folder.path(), "top");
    endless
        .arg("--socket")
        .arg(&socket)
        .args(["-b", "-d", "0.1"]);
    let mut endless = endless
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(endless.stdout.take());
    let output = endless.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(run(&socket, "top", &["-d", "0"]).status.code(), Some(2));
    let nobody = run(&folder.path().join("nobody"), "top", &[]);
    assert_eq!(nobody.status.code(), Some(1));
}

/// What comes of `peerfs top` on a terminal in which this is typed; before and after it the terminal tells how it is.
fn on_a_terminal(socket: &Path, typed: &[u8]) -> (String, i32) {
    let program = env!("CARGO_BIN_EXE_peerfs");
    let shell = format!(
        "trap : INT; stty -a; {program} top -d 0.2 --socket {}; status=$?; stty -a; exit $status",
        socket.display()
    );
    let mut process = Command::new("script")
        .args(["--quiet", "--return", "--command", &shell, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut terminal = process.stdin.take().unwrap();
    thread::sleep(Duration::from_secs(1));
    terminal.write_all(typed).unwrap();
    let output = process.wait_with_output().unwrap();
    drop(terminal);
    let text = String::from_utf8(output.stdout).unwrap();
    (text, output.status.code().unwrap())
}

#[test]
fn top_leaves_a_terminal_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    daemon(&socket, answer);
    for (typed, status) in [(b"q", 0), (b"\x03", 130)] {
        let (text, code) = on_a_terminal(&socket, typed);
        assert_eq!(code, status, "{text}");
        let (before, rest) = text.split_once("\x1b[?1049h").expect("another screen");
        let (shown, after) = rest.split_once("\x1b[?1049l").expect("and back");
        assert!(shown.matches("12D3Near").count() > 2, "{shown:?}");
        assert!(shown.ends_with("\x1b[?25h"), "the cursor");
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let after = words(after).into_iter().filter(|word| word != "^C");
        assert_eq!(words(before), after.collect::<Vec<_>>());
    }
}

#[test]
fn the_doctor_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, config) = (
        folder.path().join("control"),
        folder.path().join("peerfsd.toml"),
    );
    let path = |name| folder.path().join(name);
    let write = |more: &str| {
        let text = format!(
            "root_dir = {:?}\nstate_dir = {:?}\ncontrol_socket = {socket:?}\ndevice = \"none\"\n{more}",
            path("store"),
            path("state")
        );
        std::fs::write(&config, text).unwrap();
    };
    write("");
    let doctor = |arguments: &[&str]| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_peerfs"));
        process
            .arg("doctor")
            .arg("--config")
            .arg(&config)
            .args(arguments);
        let output = process.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (status, report) = doctor(&[]);
    assert_eq!(status, Some(1), "{report}");
    assert!(
        report.contains("error    peerfsd: nobody answers"),
        "{report}"
    );
    assert!(report.contains("systemctl start peerfsd"), "{report}");
    assert!(report.contains("ok       kernel module"), "{report}");
    assert!(!folder.path().join("store").exists(), "nothing is made");

    daemon(&socket, answer);
    std::fs::create_dir(path("store")).unwrap();
    let (status, report) = doctor(&["--json"]);
    let value: Value = serde_json::from_str(&report).unwrap();
    let findings = value["findings"].as_array().unwrap();
    let of = |check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("{check} in {report}"))
    };
    assert_eq!(status, Some(i32::from(value["level"] == "error")));
    assert_eq!(of("peerfsd")["level"], "ok");
    assert_eq!(of("peers")["level"], "ok");
    assert_eq!(of("store's filesystem")["level"], "ok");

    write("[peer]\nlisten = 7\n");
    let (status, report) = doctor(&[]);
    // As it should be if there is a peerfsd that says so.
    let refused = report.contains("error    configuration: peerfsd refuses");
    assert!(
        refused || report.contains("warning  configuration"),
        "{report}"
    );
    assert_eq!(
        status == Some(1),
        refused || report.contains("error  "),
        "{report}"
    );
    write("this is no TOML");
    assert!(doctor(&[]).1.contains("error    configuration"));
}
