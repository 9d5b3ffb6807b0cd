// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The page and the metrics of a daemon that has an image, another one in part, and a peer.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use peerfs_control::{ask, Reply, Request};
use support::process::{configure, peerfs, peerfsd, succeed, text, Running};

/// A daemon with a page, and where that is.
fn start(more: &str) -> (Running, String) {
    let monitor = "[monitor]\nlisten = \"127.0.0.1:0\"\n";
    let (daemon, log) =
        Running::start_over(tempfile::tempdir().unwrap(), &format!("{more}{monitor}"));
    let (_, address) = log.split_once("http://").expect(&log);
    let (address, _) = address.split_once('/').unwrap();
    (daemon, address.to_owned())
}

/// Builds an image of a file with these bytes; returns its digest.
fn build(daemon: &Running, name: &str, content: &[u8]) -> String {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("file"), content).unwrap();
    let mut build = Command::new(peerfs());
    build
        .args(["build", "--tag", name, "--root-dir"])
        .arg(daemon.store());
    succeed(build.arg(tree.path())).trim_end().to_owned()
}

/// What is answered, head and all.
fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get_from(address: &str, host: &str, path: &str) -> String {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    exchange(
        stream,
        &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
}

fn get(address: &str, path: &str) -> String {
    get_from(address, address, path)
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 56) as u8
    });
    noise.take(bytes).collect()
}

#[test]
fn a_browser_shows_what_is_here() {
    let (a, _) = start("");
    let image = build(&a, "team/one", &noise(3_000_000));
    let known = format!("bootstrap = [{:?}]\n", a.status().listen_addresses[0]);
    let (b, address) = start(&known);
    b.succeed("pull", &[&image, "--tag", "team/one"]);
    build(&b, "two", b"small");
    let metrics = get(&address, "/metrics");
    for line in [
        "peerfs_images 2\n",
        "peerfs_store_readable 1\n",
        "peerfs_received_bytes_total{source=\"peers\"} 3",
    ] {
        assert!(metrics.contains(line), "{line:?} is not in {metrics}");
    }
    assert!(metrics.contains("application/openmetrics-text") && metrics.ends_with("# EOF\n"));
    let map = get(&address, &format!("/api/images/{image}/map"));
    let cells: Vec<u8> = serde_json::from_str(map.rsplit("\r\n\r\n").next().unwrap()).unwrap();
    assert!(
        cells.len() > 10 && cells.iter().all(|part| *part == 100),
        "{map}"
    );
    assert!(get(&address, "/api/images/../../map").starts_with("HTTP/1.1 404"));
    // What other sites have a browser ask is refused, and what is answered may not be framed.
    assert!(get_from(&address, "evil.example", "/api/status").starts_with("HTTP/1.1 403"));
    assert!(get(&address, "/").contains("frame-ancestors 'none'"));
    let post = TcpStream::connect(&address).unwrap();
    let posted = exchange(
        post,
        &format!(
            "POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ),
    );
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");

    let profile = tempfile::tempdir().unwrap();
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=5000",
        "--window-size=1200,1500",
        "--dump-dom",
    ]);
    chromium.arg(format!("--user-data-dir={}", profile.path().display()));
    if let Some(picture) = std::env::var_os("PEERFS_PICTURE") {
        let mut picture_of = std::ffi::OsString::from("--screenshot=");
        picture_of.push(picture);
        chromium.arg(picture_of);
    }
    let output = chromium
        .arg(format!("http://{address}/"))
        .output()
        .expect("scripts/setup-packages installs chromium");
    let page = text(&output.stdout);
    for shown in [
        "team/one",
        &image[..12],
        "2.9 MiB",
        "100 %",
        &a.status().node_id[..12],
    ] {
        assert!(page.contains(shown), "{shown} is not on the page: {page}");
    }
    let errors = text(&output.stderr);
    assert!(
        !errors.contains("Content Security Policy") && !errors.contains("Uncaught"),
        "{errors}"
    );
}

#[test]
fn a_unix_socket_will_do_and_is_taken_from_nobody() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("page.sock");
    let monitor = format!("[monitor]\nlisten = {:?}\n", socket.to_str().unwrap());
    let (daemon, _) = Running::start_over(root, &monitor);
    let request = "GET /healthz HTTP/1.1\r\nHost: peerfs\r\nConnection: close\r\n\r\n";
    assert!(exchange(UnixStream::connect(&socket).unwrap(), request).ends_with("ok\n"));
    let other = tempfile::tempdir().unwrap();
    let output = peerfsd()
        .arg("--config")
        .arg(configure(other.path(), &monitor))
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(
        !output.status.success() && said.contains("monitor.listen"),
        "{said}"
    );
    // What a daemon that was killed has left is no obstacle.
    let mut daemon = daemon;
    daemon.stop(nix::sys::signal::Signal::SIGKILL);
    let (daemon, _) = daemon.restart_after_death(&monitor);
    assert!(exchange(UnixStream::connect(&socket).unwrap(), request).ends_with("ok\n"));
    drop(daemon);
}

#[test]
fn who_connects_and_says_nothing_takes_little_of_the_daemon() {
    let (daemon, address) = start("");
    let open = || match ask(
        &daemon.socket(),
        &Request::Activity,
        Duration::from_secs(20),
    ) {
        Ok(Reply::Activity(activity)) => activity.open_files,
        other => panic!("no answer but {other:?}"),
    };
    let before = open();
    let silent: Vec<TcpStream> = (0..150)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    assert!(open() < before + 100, "{} after {before}", open());
    drop(silent);
    // As soon as it has seen that they are gone; until then others are closed.
    let is_answered = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        let request = format!("GET /healthz HTTP/1.0\r\nHost: {address}\r\n\r\n");
        let mut answer = String::new();
        let asked = stream.write_all(request.as_bytes());
        let read = asked.and_then(|()| stream.read_to_string(&mut answer));
        read.is_ok() && answer.ends_with("ok\n")
    };
    let begun = Instant::now();
    while !is_answered() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
