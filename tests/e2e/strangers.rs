//! Whoever is no friend gets nothing: not one byte, whatever it sends.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::harness::*;

/// Sends something and reads for three seconds; returns how many bytes came back, and keeps the
/// connection.
fn answer_to(address: &str, sent: &[u8]) -> (usize, TcpStream) {
    let mut stream = TcpStream::connect(address).expect("the listener accepts");
    // The node may close while a stranger still talks.
    let _ = stream.set_write_timeout(Some(Duration::from_secs(3)));
    let _ = stream.write_all(sent);
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut buffer = [0; 4_096];
    let came = match stream.read(&mut buffer) {
        Ok(n) => n,
        Err(e) => {
            let silent = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::ConnectionReset];
            assert!(silent.contains(&e.kind()), "{e}");
            0
        }
    };
    (came, stream)
}

#[test]
fn strangers_get_silence_and_friends_are_served() {
    let [a, mut b] = line_of::<2>();
    let address = a.listen();
    let noise = [random_bytes(72), random_bytes(300), random_bytes(1_000_000)];
    let http = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n";
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let sent: [&[u8]; 6] = [b"", http, tls, &noise[0], &noise[1], &noise[2]];
    let held: Vec<TcpStream> = thread::scope(|scope| {
        let answers = sent.map(|bytes| scope.spawn(|| answer_to(&address, bytes)));
        let mut held = Vec::new();
        for (answer, bytes) in answers.into_iter().zip(sent) {
            let (came, stream) = answer.join().unwrap();
            assert_eq!(came, 0, "a stranger who sent {} bytes got an answer", bytes.len());
            held.push(stream);
        }
        held
    });

    // Ana's invite is no key to a listener either: the line is not the protocol.
    let line = invite(&a);
    assert_eq!(answer_to(&address, line.as_bytes()).0, 0);

    // With the strangers still connected, a friend comes anew and fetches.
    b.restart();
    wait_connected(&a, &b);
    let (path, bytes) = random_file(&a, "one.bin", 200_000);
    let id = id_of(&publish(&a, &path, "Turnstone", "friends"));
    wait_found(&b, "turnstone", &id);
    let out = b.scratch("out.bin");
    kith(&b, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
    assert_same(&out, &bytes);
    assert_eq!(friend_count(&a), 1);
    drop(held);
}

#[test]
fn a_recorded_first_flight_opens_nothing() {
    let [mut a, mut b] = line_of::<2>();
    let address = a.listen();
    assert!(b.terminate().success());
    assert!(a.terminate().success());
    // Bo dials where Ana was, and there somebody else listens and records.
    let recorder = TcpListener::bind(&address).expect("the port is free while Ana is away");
    recorder.set_nonblocking(true).unwrap();
    b.restart();
    let mut flight = Vec::new();
    wait_until(SOON, "Bo dials Ana", || {
        let Ok((mut stream, _)) = recorder.accept() else { return false };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        flight.clear();
        let mut buffer = [0; 4_096];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            flight.extend_from_slice(&buffer[..n]);
        }
        flight.len() > 72
    });
    drop(recorder);
    a.restart();
    wait_connected(&a, &b);
    // Delivered late it may be answered once, because Ana may have dialled and never have seen a
    // counter as high; what answers it is useless without the caller's secrets. From then on, and
    // after a restart too, it is a replay.
    let _ = answer_to(&address, &flight);
    assert_eq!(answer_to(&address, &flight).0, 0, "a replayed flight got an answer");
    assert!(is_online(&a, "Bo"), "a recording must not end the real link");
    assert!(a.terminate().success());
    a.restart();
    assert_eq!(answer_to(&address, &flight).0, 0, "a restart forgot the counter");
    wait_connected(&a, &b);
    assert!(is_online(&a, "Bo"));
}
