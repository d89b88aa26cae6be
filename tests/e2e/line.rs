//! Three friends in a line: the main story. Ana and Cleo do not know each other; Bo knows both.

use std::time::{Duration, Instant};

use crate::harness::*;

#[test]
fn a_video_travels_from_a_friend_of_a_friend() {
    let Some(clip) = sample_video(4) else { return };
    let [a, b, c] = line_of::<3>();
    let file = clip.path.to_str().unwrap();
    let publish = ["publish", file, "--to", "fof", "--title", "Día en el zoo", "--tag", "animals"];
    let answer = kith(&a, &[&publish[..], &["--keep-metadata", "--json"]].concat()).json();
    let id = id_of(&answer);
    assert_eq!(answer["title"], "Día en el zoo");
    assert_eq!(answer["bytes"], clip.bytes.len());
    assert_eq!(answer["blocks"], clip.bytes.len().div_ceil(65_536));
    assert_eq!(answer["audience"], "fof");
    assert_eq!(answer["stripped"], serde_json::json!([]));
    assert!(answer["link"].is_string(), "{answer}");

    // Cleo finds it by word, without its accent and by a prefix of its tag.
    let row = wait_found(&c, "zoo", &id);
    assert_eq!(row["distance"], 2, "{row}");
    assert_eq!(row["via"], "Bo", "{row}");
    assert_eq!(row["title"], "Día en el zoo");
    assert_eq!(row["bytes"], clip.bytes.len());
    assert_eq!(row["mime"], "video/mp4");
    assert!(row["tags"].as_array().unwrap().iter().any(|tag| tag == "animals"), "{row}");
    for words in ["dia", "DÍA", "anim", "zoo dia", "animals zoo"] {
        assert!(found(&c, words, &id).is_some(), "{words:?} must find it");
    }
    for words in ["zebra", "zoo zebra", "oo"] {
        assert!(found(&c, words, &id).is_none(), "{words:?} must not find it");
    }
    // Bo is a direct friend of the publisher, who has it at hand.
    assert_eq!(found(&b, "zoo", &id).unwrap()["distance"], 1);
    let own = found(&a, "zoo", &id).unwrap();
    assert_eq!((&own["distance"], &own["via"]), (&0.into(), &serde_json::Value::Null));
    for (scope, sees) in [("mine", false), ("friends", false), ("fof", true)] {
        let rows = json(&c, &["search", "zoo", "--scope", scope]);
        assert_eq!(rows.as_array().unwrap().iter().any(|row| row["id"] == id), sees, "{scope}: {rows}");
    }

    // Cleo has no link to Ana: a named route is used or fails, never replaced.
    kith(&c, &["get", &id, "--route", "direct"]).expect_refusal(&[6]);
    let out = c.scratch("out.mp4");
    let got = kith(&c, &["get", &id, "-o", out.to_str().unwrap(), "--json"]).json();
    assert_eq!((&got["mode"], &got["hops"]), (&"fof".into(), &2.into()), "{got}");
    assert_eq!(got["id"], id.as_str());
    assert_eq!(got["bytes"], clip.bytes.len());
    assert!(got["seconds"].as_f64().is_some(), "{got}");
    assert_same(&out, &clip.bytes);
    let (made, read) = (ffprobe(file), ffprobe(out.to_str().unwrap()));
    assert!((made - read).abs() < 0.001 && (made - 4.0).abs() < 0.2, "{made} s became {read} s");

    // Once fetched it is at hand, and a unique prefix of eight digits names it.
    let again = json(&c, &["get", &id[..8]]);
    assert_eq!((&again["mode"], &again["hops"]), (&"local".into(), &0.into()), "{again}");

    let direct = json(&b, &["get", &id]);
    assert_eq!((&direct["mode"], &direct["hops"]), (&"direct".into(), &1.into()), "{direct}");
    assert!(direct["path"].is_null(), "{direct}");
    // The bytes are in Bo's store, and stdout is as good as a file.
    let piped = kith(&b, &["get", &id, "-o", "-"]);
    piped.expect_code(&[0]);
    assert!(piped.stdout == clip.bytes, "{} bytes on stdout", piped.stdout.len());
}

#[test]
fn ids_that_name_nothing_fail_at_once() {
    let node = Node::start("Ana");
    let (path, _) = random_file(&node, "one.bin", 70_000);
    let id = id_of(&publish(&node, &path, "Something", "friends"));

    let begun = Instant::now();
    kith(&node, &["get", &"0123456789abcdef".repeat(4)]).expect_refusal(&[4]);
    let unknown_prefix = if id.starts_with("00000000") { "11111111" } else { "00000000" };
    kith(&node, &["get", unknown_prefix]).expect_refusal(&[4]);
    assert!(begun.elapsed() < Duration::from_secs(5), "an unknown id is answered at once");

    kith(&node, &["get", &id[..7]]).expect_refusal(&[2]);
    kith(&node, &["get", "no-such-id"]).expect_refusal(&[2, 4]);
    assert_eq!(json(&node, &["get", &id[..8]])["mode"], "local");
}
