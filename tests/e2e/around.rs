//! What stands around a film: captions, chapters, a poster; folders with all of it.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::*;
use crate::page::Login;
use crate::watch::get;

const SRT: &str = "1\n00:00:00,500 --> 00:00:01,500\n<font color=red>Guten</font> <i>Tag</i>\n\n\
                   NOTE KITHPLANT\n\n2\n00:00:02,000 --> 00:00:03,000\nOtter & Co\n";
const VTT: &str = "WEBVTT\n\n00:00:00.500 --> 00:00:01.500\nGuten <i>Tag</i>\n\n\
                   00:00:02.000 --> 00:00:03.000\nOtter &amp; Co\n";

/// A picture with a comment in it.
fn picture(path: &std::path::Path) {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=s=1280x720:d=1", "-frames:v", "1"])
        .args(["-metadata", "comment=KITHPLANT"])
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}

#[test]
fn captions_chapters_and_a_poster_go_with_a_film() {
    let Some(clip) = sample_video(4) else { return };
    let [a, b] = line_of::<2>();
    let write = |name: &str, what: &[u8]| {
        let path = a.scratch(name);
        fs::write(&path, what).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let captions = write("film.de.srt", SRT.as_bytes());
    let chapters = write("chapters.txt", b"0:00 Morning\n0:02 The <b>otters</b>\n");
    let poster = a.scratch("poster.png");
    picture(&poster);
    let poster = poster.to_str().unwrap();
    let film = clip.path.to_str().unwrap();
    let around = ["--captions", &captions, "--chapters", &chapters, "--poster", poster];
    let args = [&["publish", film, "--title", "Otters", "--licence", "CC0"], &around[..]].concat();

    // What would be done is said without doing it, and without a node.
    let dry = kith_at(&a.scratch("nowhere"), &[&args[..], &["--dry-run", "--json"]].concat()).json();
    assert_eq!((&dry["mime"], &dry["browser"]), (&"video/mp4".into(), &"yes".into()), "{dry}");
    assert_eq!(dry["extras"].as_array().unwrap().len(), 3, "{dry}");
    assert!(dry["tracks"][0]["width"] == 320 && dry["duration_s"] == 4, "{dry}");
    assert!(json(&a, &["video", "list"]).as_array().unwrap().is_empty());

    let id = id_of(&json(&a, &args));
    wait_found(&b, "otters", &id);
    // A friend who has nothing of it is told of nothing before it plays.
    assert!(api(&b, "GET", &format!("/api/videos/{id}/around"), None)["detail"].is_string());
    json(&b, &["get", &id]);
    for node in [&a, &b] {
        let found = api(node, "GET", &format!("/api/videos/{id}/around"), None);
        assert_eq!(
            found["chapters"][1],
            serde_json::json!({"begins_ms": 2000, "title": "The <b>otters</b>"})
        );
        assert_eq!((&found["parts"][0]["lang"], &found["licence"]), (&"de".into(), &"CC0".into()), "{found}");
        let login = Login::new(node);
        let page = login.page(&format!("/watch/{id}"));
        assert!(page.contains("The &lt;b&gt;otters&lt;/b&gt;") && page.contains("?t=2"), "{page}");
        let track = page.split("<track ").nth(1).unwrap().split("src=\"").nth(1).unwrap();
        let answer = get(&login.web, track.split('"').next().unwrap(), &[]);
        assert_eq!((answer.status, answer.header("content-type")), (200, "text/vtt; charset=utf-8"));
        assert_eq!(String::from_utf8_lossy(&answer.body), VTT);
        let shown = login.ask("GET", &format!("/poster/{}", &id[..16]), &[], b"");
        assert_eq!(shown.header("content-type"), "image/jpeg");
        assert!(
            shown.body.starts_with(b"\xff\xd8")
                && !String::from_utf8_lossy(&shown.body).contains("KITHPLANT")
        );
        // The film is not longer by it.
        let out = node.scratch("out.mp4");
        kith(node, &["get", &id, "-o", out.to_str().unwrap()]).expect_code(&[0]);
        let bytes = fs::read(&out).unwrap();
        assert!(bytes.len() < clip.bytes.len() && !String::from_utf8_lossy(&bytes).contains("Guten"));
    }

    // What is wrong with one of them is said, and nothing is published.
    let html = write("bad.srt", b"<html>");
    let refused = kith(&a, &["publish", film, "--captions", &html]);
    refused.expect_refusal(&[10]);
    assert!(refused.err().contains("captions") && refused.err().contains("SubRip"), "{}", refused.err());
    let latin = write("latin.srt", b"1\n00:00:01,000 --> 00:00:02,000\ngr\xfcn\n");
    let refused = kith(&a, &["publish", film, "--captions", &latin]);
    assert!(refused.expect_refusal(&[10]).err().contains("UTF-8"), "{}", refused.err());
    kith(&a, &["publish", film, "--poster", &captions]).expect_refusal(&[10]);
    kith(&a, &["publish", film, "--poster", "/nonexistent.png"]).expect_refusal(&[1, 4]);
    assert_eq!(json(&a, &["video", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_folder_is_published_with_what_lies_beside_and_only_once() {
    let Some(clip) = sample_video(2) else { return };
    let node = Node::start("Ana");
    let folder = node.scratch("films");
    fs::create_dir_all(folder.join("more")).unwrap();
    fs::write(folder.join("One.mp4"), &clip.bytes).unwrap();
    fs::write(folder.join("One.en.srt"), SRT).unwrap();
    picture(&folder.join("One.jpg"));
    fs::write(folder.join("more/Two.mp4"), &clip.bytes).unwrap();
    fs::write(folder.join("more/.hidden.mp4"), &clip.bytes).unwrap();
    fs::write(folder.join("notes.txt"), "no film").unwrap();
    std::os::unix::fs::symlink(folder.join("One.mp4"), folder.join("linked.mp4")).unwrap();
    let path = folder.to_str().unwrap();
    let dry = json(&node, &["publish", path, "--dry-run"]);
    let named = |row: &Value| row["title"].as_str().unwrap().to_owned();
    assert_eq!(dry.as_array().unwrap().iter().map(named).collect::<Vec<_>>(), ["One", "Two"], "{dry}");
    assert_eq!(dry[0]["extras"].as_array().unwrap().len(), 2, "{dry}");

    let first = json(&node, &["publish", path, "--tag", "zoo"]);
    assert_eq!(first.as_array().unwrap().len(), 2, "{first}");
    let around = api(&node, "GET", &format!("/api/videos/{}/around", id_of(&first[0])), None);
    assert!(around["poster"] == true && around["parts"][0]["lang"] == "en", "{around}");
    let again = json(&node, &["publish", path, "--tag", "zoo"]);
    assert_eq!((id_of(&first[0]), id_of(&first[1])), (id_of(&again[0]), id_of(&again[1])));
    // What changed is another film; what is for others is published for them.
    fs::write(folder.join("more/Two.mp4"), [&clip.bytes[..], b"\0\0\0\x08free"].concat()).unwrap();
    let third = json(&node, &["publish", path]);
    assert_eq!(id_of(&third[0]), id_of(&first[0]));
    assert_ne!(id_of(&third[1]), id_of(&first[1]));
    let others = json(&node, &["publish", path, "--to", "fof"]);
    assert_ne!(id_of(&others[0]), id_of(&first[0]));
    // One that is broken does not keep the others back.
    fs::write(folder.join("Broken.mp4"), &clip.bytes[..clip.bytes.len() / 2]).unwrap();
    let some = kith(&node, &["publish", path, "--json"]);
    some.expect_code(&[10]);
    assert!(some.err().contains("Broken.mp4"), "{}", some.err());
    kith(&node, &["publish", path, "--title", "x"]).expect_refusal(&[2]);
    fs::create_dir(node.scratch("empty")).unwrap();
    kith(&node, &["publish", node.scratch("empty").to_str().unwrap()]).expect_refusal(&[4]);
}

#[test]
fn words_and_audience_change_and_the_video_stays() {
    let [a, b, c] = line_of::<3>();
    let (path, bytes) = random_file(&a, "one.bin", 100_000);
    let id = id_of(&json(&a, &["publish", path.to_str().unwrap(), "--title", "Ruff", "--any-file"]));
    wait_found(&b, "ruff", &id);
    let edited = json(&a, &["video", "edit", &id, "--title", "Godwit", "--tag", "bird"]);
    assert_eq!(
        (&edited["title"], &edited["tags"][0], id_of(&edited)),
        (&"Godwit".into(), &"bird".into(), id.clone())
    );
    wait_found(&b, "godwit", &id);
    wait_until(SOON, "the old title is gone", || found(&b, "ruff", &id).is_none());
    assert!(found(&c, "godwit", &id).is_none());
    json(&a, &["video", "share", &id, "--to", "fof"]);
    wait_found(&c, "godwit", &id);
    json(&a, &["video", "share", &id, "--to", "friend:Bo"]);
    wait_until(SOON, "it is for one friend now", || found(&c, "godwit", &id).is_none());
    kith(&a, &["video", "share", &id, "--to", "everyone"]).expect_refusal(&[2]);
    kith(&a, &["video", "edit", &id]).expect_refusal(&[2]);
    kith(&a, &["video", "edit", &id, "--title", " "]).expect_refusal(&[2]);
    kith(&b, &["video", "edit", &id, "--title", "Mine"]).expect_refusal(&[5]);

    let checked = json(&a, &["video", "verify", &id]);
    assert_eq!(checked["found"], 0, "{checked}");
    let folder = a.scratch("export");
    fs::create_dir(&folder).unwrap();
    json(&a, &["video", "edit", &id, "--title", "../God/wit"]);
    let out = json(&a, &["video", "export", &id[..12], "-o", folder.to_str().unwrap()]);
    assert_eq!(out["path"], folder.join("God_wit.bin").to_str().unwrap());
    assert_same(&folder.join("God_wit.bin"), &bytes);
    kith(&a, &["video", "export", &id, "-o", folder.to_str().unwrap()]).expect_refusal(&[1]);
    kith(&b, &["video", "export", &id]).expect_refusal(&[4]);
}

fn has_ffmpeg() -> bool {
    has_program("ffmpeg", "ffmpeg")
}

/// What ffmpeg makes where it is asked for.
#[test]
fn a_poster_a_storyboard_and_another_container_are_made_when_asked_for() {
    let Some(clip) = sample_video(6) else { return };
    let node = Node::start("Ana");
    let film = clip.path.to_str().unwrap();
    let args = ["publish", film, "--title", "Otters", "--poster", "auto", "--storyboard"];
    let id = id_of(&json(&node, &args));
    let around = api(&node, "GET", &format!("/api/videos/{id}/around"), None);
    assert!(around["poster"] == true && around["parts"][0]["kind"] == "storyboard", "{around}");
    assert_eq!((&around["parts"][0]["step_ms"], &around["parts"][0]["columns"]), (&100.into(), &10.into()));

    // What browsers do not play: another container, and sound that they do not know.
    let odd = |name: &str, args: &[&str]| {
        let path = node.scratch(name);
        let made = Command::new("ffmpeg").args(["-v", "error", "-i", film]).args(args).arg(&path).status();
        assert!(made.unwrap().success());
        path.to_str().unwrap().to_owned()
    };
    let avi = odd("film.avi", &["-c:v", "copy", "-c:a", "mp3", "-metadata", "title=KITHPLANT"]);
    let ts = odd("film.ts", &["-c:v", "copy", "-c:a", "ac3", "-metadata", "service_name=KITHPLANT"]);
    // What cannot be cleaned is told all the same.
    let told = json(&node, &["publish", &ts, "--keep-metadata", "--dry-run"]);
    let codecs: Vec<&str> =
        told["tracks"].as_array().unwrap().iter().map(|track| track["codec"].as_str().unwrap()).collect();
    assert_eq!((&told["mime"], codecs), (&"video/mp2t".into(), vec!["H.264", "AC-3"]), "{told}");
    assert_eq!(told["duration_s"], json(&node, &["publish", film, "--dry-run"])["duration_s"], "{told}");
    for (path, refused) in [(&avi, 10), (&ts, 10)] {
        kith(&node, &["publish", path]).expect_refusal(&[refused]);
        let made = json(&node, &["publish", path, "--convert"]);
        let out = node.scratch("out.mp4");
        json(&node, &["get", &id_of(&made), "-o", out.to_str().unwrap()]);
        let bytes = fs::read(&out).unwrap();
        assert!(!bytes.windows(9).any(|window| window == b"KITHPLANT"), "{path}");
        let probed = Command::new("ffprobe")
            .args([
                "-v",
                "error",
                "-show_entries",
                "stream=codec_name",
                "-of",
                "csv=p=0",
                out.to_str().unwrap(),
            ])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&probed.stdout).split_whitespace().collect::<Vec<_>>(),
            ["h264", "aac"]
        );
        fs::remove_file(&out).unwrap();
    }
    // A film that browsers play is left as it is.
    let dry = json(&node, &["publish", film, "--convert", "--dry-run"]);
    assert_eq!(dry["bytes"], clip.bytes.len(), "{dry}");
}

/// ffmpeg is for what is asked for alone: without it that is told, and all else works.
#[test]
fn without_ffmpeg_all_else_works_and_it_is_told() {
    let Some(clip) = sample_video(2) else { return };
    let node = Node::start("Ana");
    let (film, odd) = (clip.path.to_str().unwrap(), node.scratch("film.avi"));
    fs::write(&odd, b"RIFF\0\0\0\0AVI LIST").unwrap();
    let publish = |args: &[&str]| {
        let mut without = command(&node.home, &[&["publish", "--json"], args].concat());
        without.env("PATH", "/nonexistent");
        Running::start(without, b"").finish(SOON)
    };
    for wish in
        [&[film, "--poster", "auto"][..], &[film, "--storyboard"], &[odd.to_str().unwrap(), "--convert"]]
    {
        let refused = publish(wish);
        assert!(refused.expect_refusal(&[10]).err().contains("ffmpeg is not installed"), "{}", refused.err());
    }
    assert_eq!(json(&node, &["video", "list"]), serde_json::json!([]));
    // What browsers play needs no conversion.
    publish(&[film, "--convert", "--title", "Plover"]).expect_code(&[0]);
    assert_eq!(json(&node, &["video", "list"])[0]["title"], "Plover");
}

/// A64: a list of addresses in a film's clothes opens neither files nor addresses. The control shows that it does
/// when nothing keeps it from that.
#[test]
fn a_list_in_a_films_clothes_opens_nothing() {
    if !has_ffmpeg() {
        return;
    }
    let Some(clip) = sample_video(2) else { return };
    let node = Node::start("Ana");
    let secret = node.scratch("secret.ts");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-i", clip.path.to_str().unwrap(), "-c", "copy", secret.to_str().unwrap()])
        .status();
    assert!(made.unwrap().success());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let list = format!(
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2,\nfile://{}\n#EXTINF:2,\nhttp://127.0.0.1:{port}/x.ts\n#EXT-X-ENDLIST\n",
        secret.display()
    );
    for name in ["film.avi", "film.mp4", "film.m3u8"] {
        let path = node.scratch(name);
        fs::write(&path, &list).unwrap();
        kith(&node, &["publish", path.to_str().unwrap(), "--convert"]).expect_refusal(&[10]);
        kith(&node, &["publish", path.to_str().unwrap(), "--any-file", "--poster", "auto"])
            .expect_refusal(&[10]);
    }
    assert!(listener.accept().is_err(), "nobody called");
    // By itself, and told that it may, it opens the file.
    let path = node.scratch("film.m3u8");
    let opened = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-allowed_extensions",
            "ALL",
            "-protocol_whitelist",
            "file,crypto,data,http,tcp",
            "-t",
            "0.5",
        ])
        .args(["-i", path.to_str().unwrap(), "-f", "null", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&opened.stderr).into_owned();
    assert!(opened.status.success() || said.contains("127.0.0.1"), "{said}");
}

/// What a program may do that looks at a foreign file.
#[test]
fn a_confined_program_has_no_network_and_few_files() {
    let node = Node::start("Ana");
    let web = node.web();
    let inside = node.scratch("inside");
    fs::create_dir(&inside).unwrap();
    let outside = node.scratch("outside.txt");
    fs::write(&outside, "secret").unwrap();
    let run = |script: &str| {
        Command::new(env!("CARGO_BIN_EXE_kith"))
            .args([
                "confined-program",
                "5",
                "1000000",
                inside.to_str().unwrap(),
                "0",
                "/bin/bash",
                "-c",
                script,
            ])
            .output()
            .unwrap()
    };
    let port = web.rsplit(':').next().unwrap();
    let host = web.rsplit_once(':').unwrap().0;
    // It runs, and writes where it may.
    let fine = run(&format!("echo x > {}/made && echo fine", inside.display()));
    assert_eq!(String::from_utf8_lossy(&fine.stdout).trim(), "fine", "{fine:?}");
    let call = run(&format!("exec 3<>/dev/tcp/{host}/{port} && echo called"));
    assert!(!String::from_utf8_lossy(&call.stdout).contains("called"), "{call:?}");
    let write = |to: &str| format!("printf '%3000000s' x > {to}");
    let large = run(&write(&format!("{}/large", inside.display())));
    assert!(fs::metadata(inside.join("large")).unwrap().len() <= 1_000_000, "{large:?}");
    let control = node.scratch("large");
    let written = Command::new("/bin/bash").args(["-c", &write(control.to_str().unwrap())]).status().unwrap();
    assert_eq!((written.success(), fs::metadata(control).unwrap().len()), (true, 3_000_000));
    // The control is the shell itself: it starts another one outside.
    let starts_another = "echo begun; (echo another); /bin/bash -c 'echo another'";
    let other = run(starts_another);
    let said = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(said.contains("begun") && !said.contains("another"), "{other:?}");
    let outside_of_it = Command::new("/bin/bash").args(["-c", starts_another]).output().unwrap();
    assert!(String::from_utf8_lossy(&outside_of_it.stdout).contains("another"));
    let endless = std::time::Instant::now();
    let ended = run("while :; do :; done");
    assert!(!ended.status.success() && endless.elapsed().as_secs() < 60);
    // Files outside are closed where the kernel knows such rules; it says so.
    let rules = fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.contains("landlock"));
    let read = run(&format!("exec cat {}", outside.display()));
    let was_read = String::from_utf8_lossy(&read.stdout).contains("secret");
    assert!(!rules || !was_read, "{read:?}");
    if !rules {
        eprintln!("this kernel has no Landlock: that files are closed could not be checked");
    }
}

#[test]
fn what_is_put_into_a_watched_folder_is_published() {
    let Some(clip) = sample_video(2) else { return };
    let [mut a, b] = line_of::<2>();
    let folder = a.scratch("films");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("Early.mp4"), &clip.bytes).unwrap();
    fs::write(folder.join("Early.de.srt"), SRT).unwrap();
    let path = folder.to_str().unwrap();
    kith(&a, &["folder", "add", path, "--to", "everyone"]).expect_refusal(&[2]);
    kith(&a, &["folder", "add", "/nonexistent"]).expect_refusal(&[1, 4]);
    kith(&a, &["folder", "add", path, "--to", "friends"]).expect_code(&[0]);
    let titles = |node: &Node| {
        let all = json(node, &["video", "list"]);
        let mut titles: Vec<String> =
            all.as_array().unwrap().iter().map(|v| v["title"].as_str().unwrap().to_owned()).collect();
        titles.sort();
        titles
    };
    wait_until(SOON * 2, "what is there is published", || titles(&a) == ["Early"]);
    let id = id_of(&json(&a, &["video", "list"])[0]);
    assert_eq!(api(&a, "GET", &format!("/api/videos/{id}/around"), None)["parts"][0]["lang"], "de");
    wait_found(&b, "early", &id);

    // A file that grows is taken when it is finished, and one that is none is told of.
    let half = clip.bytes.len() / 2;
    fs::write(folder.join("Late.mp4"), &clip.bytes[..half]).unwrap();
    fs::write(folder.join("Broken.mp4"), &clip.bytes[..half]).unwrap();
    let listed = |node: &Node| json(node, &["folder", "list"])[0].clone();
    wait_until(SOON * 2, "what is wrong is told", || {
        listed(&a)["problems"].as_object().unwrap().keys().any(|file| file.ends_with("Broken.mp4"))
    });
    fs::write(folder.join("Late.mp4"), &clip.bytes).unwrap();
    wait_until(SOON * 2, "it is published when it is whole", || titles(&a) == ["Early", "Late"]);

    // Nothing is published twice, after a restart neither; what is deleted stays published.
    a.restart();
    fs::remove_file(folder.join("Early.mp4")).unwrap();
    fs::write(folder.join("Third.mp4"), &clip.bytes).unwrap();
    wait_until(SOON * 2, "the third comes", || titles(&a).contains(&"Third".to_owned()));
    assert_eq!(titles(&a), ["Early", "Late", "Third"]);
    kith(&a, &["folder", "rm", path]).expect_code(&[0]);
    assert!(json(&a, &["folder", "list"]).as_array().unwrap().is_empty());
    kith(&a, &["folder", "rm", path]).expect_refusal(&[4]);
}
