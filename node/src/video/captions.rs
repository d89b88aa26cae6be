//! Captions: SubRip and WebVTT in, plain WebVTT out (W3C WebVTT 4, 5; SubRip as players read it).
//!
//! Only times and words stay. Notes, styles, regions, settings and names of voices go, and of marks all but slanted,
//! bold and underlined.

use super::{Refused, refused, telemetry};

/// The longest file that is read.
pub const MAX_LEN: usize = 1 << 20;
/// What is refused although it can be read.
const LOG: &str = "it is a log of where the camera was, as drones write it: leave it away";
/// Captions at most.
const MAX_CUES: usize = 20_000;

/// Words that are shown for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cue {
    from_ms: u64,
    to_ms: u64,
    text: String,
}

/// Reads a file of either kind and gives it back as WebVTT.
pub fn to_vtt(file: &[u8]) -> Result<String, Refused> {
    let cues = cues(text(file)?)?;
    if cues.is_empty() {
        return refused("there is no caption in it: it should be SubRip (.srt) or WebVTT (.vtt)");
    }
    let mut out = String::from("WEBVTT\n");
    for cue in cues {
        out.push_str(&format!("\n{} --> {}\n{}\n", time(cue.from_ms), time(cue.to_ms), cue.text));
    }
    if out.len() > MAX_LEN {
        return refused("it has more than a mebibyte");
    }
    Ok(out)
}

/// Whether a file of captions is in truth a log of positions.
pub fn is_log(file: &[u8]) -> bool {
    to_vtt(file).is_err_and(|Refused(why)| why == LOG)
}

/// A file as text, without the mark at its beginning.
pub fn text(file: &[u8]) -> Result<&str, Refused> {
    if file.len() > MAX_LEN {
        return refused("it has more than a mebibyte");
    }
    match std::str::from_utf8(file) {
        Ok(text) => Ok(text.trim_start_matches('\u{feff}')),
        Err(e) => refused(format!("it is not UTF-8 from byte {} on: save it as UTF-8", e.valid_up_to())),
    }
}

fn cues(text: &str) -> Result<Vec<Cue>, Refused> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut cues = Vec::new();
    // A cue is lines up to an empty one, of which one has the times; what has none is a note or a style.
    for block in text.split("\n\n") {
        let mut lines = block.lines().skip_while(|line| !line.contains("-->"));
        let Some((from_ms, to_ms)) = lines.next().and_then(times) else { continue };
        let words: Vec<String> = lines
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.contains("-->"))
            .map(plain)
            .collect();
        if words.is_empty() || to_ms <= from_ms {
            continue;
        }
        if telemetry::tells_positions(words.join("\n").as_bytes()) {
            return refused(LOG);
        }
        if cues.len() == MAX_CUES {
            return refused(format!("it has more than {MAX_CUES} captions"));
        }
        cues.push(Cue { from_ms, to_ms, text: words.join("\n") });
    }
    Ok(cues)
}

fn times(line: &str) -> Option<(u64, u64)> {
    let (from, to) = line.split_once("-->")?;
    Some((millis(from.trim())?, millis(to.split_whitespace().next()?)?))
}

/// `1:02:03.456`, `02:03,456` and `02:03`.
pub fn millis(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once(['.', ',']).unwrap_or((text, "0"));
    let mut seconds = 0_u64;
    let mut count = 0;
    for field in whole.split(':') {
        if count == 3 || field.is_empty() || field.len() > 4 || !field.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        seconds = seconds * 60 + field.parse::<u64>().ok()?;
        count += 1;
    }
    if !(2..=3).contains(&count) || part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths: String = part.chars().chain("00".chars()).take(3).collect();
    Some(seconds * 1000 + thousandths.parse::<u64>().ok()?)
}

fn time(ms: u64) -> String {
    let s = ms / 1000;
    format!("{:02}:{:02}:{:02}.{:03}", s / 3600, s / 60 % 60, s % 60, ms % 1000)
}

/// A line of words: marks that stay are rewritten, all else is what is seen.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    // Once no mark ends any more, none is looked for.
    let (last_mark, last_place) = (line.rfind('>'), line.rfind('}'));
    let at_of = |rest: &str| line.len() - rest.len();
    while let Some(at) = rest.find(['<', '{', '&', '>']) {
        let (before, here) = rest.split_at(at);
        out.push_str(before);
        let (piece, after) = match here.as_bytes().first() {
            Some(b'<') => match (last_mark > Some(at_of(here))).then(|| here.find('>')).flatten() {
                Some(end) => (mark(here.get(1..end).unwrap_or_default()), here.get(end + 1..)),
                None => ("&lt;".into(), here.get(1..)),
            },
            // Places and colours of another format, as SubRip files carry them.
            Some(b'{') => match (here.starts_with("{\\") && last_place > Some(at_of(here)))
                .then(|| here.find('}'))
                .flatten()
            {
                Some(end) => (String::new(), here.get(end + 1..)),
                None => ("{".into(), here.get(1..)),
            },
            Some(b'&') => {
                match ["&lt;", "&gt;", "&amp;", "&nbsp;"].iter().find(|known| here.starts_with(**known)) {
                    Some(known) => ((*known).to_owned(), here.get(known.len()..)),
                    None => ("&amp;".into(), here.get(1..)),
                }
            }
            _ => ("&gt;".into(), here.get(1..)),
        };
        out.push_str(&piece);
        rest = after.unwrap_or_default();
    }
    out + rest
}

fn mark(inner: &str) -> String {
    match inner.trim().to_ascii_lowercase().as_str() {
        known @ ("i" | "b" | "u" | "/i" | "/b" | "/u") => format!("<{known}>"),
        _ => String::new(),
    }
}

/// Chapters: a line each, its time and its title, or WebVTT with titles as captions.
pub fn chapters(file: &[u8]) -> Result<Vec<(u64, String)>, Refused> {
    let text = text(file)?;
    let mut all: Vec<(u64, String)> = if text.starts_with("WEBVTT") {
        cues(text)?.into_iter().map(|cue| (cue.from_ms, cue.text.replace('\n', " "))).collect()
    } else {
        let mut all = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let split = line.trim().split_once(char::is_whitespace);
            let Some((begins, title)) = split.and_then(|(time, title)| Some((millis(time)?, title.trim())))
            else {
                return refused(format!(
                    "line {} is not a time and a title, like \"12:30 The otters\"",
                    number + 1
                ));
            };
            all.push((begins, title.to_owned()));
        }
        all
    };
    if all.is_empty() {
        return refused(
            "there is no chapter in it: each line is a time and a title, like \"12:30 The otters\"",
        );
    }
    if all.len() > kith_crypto::content::MAX_CHAPTERS {
        return refused(format!("it has more than {} chapters", kith_crypto::content::MAX_CHAPTERS));
    }
    all.sort_by_key(|(begins, _)| *begins);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn subrip_becomes_webvtt() {
        let srt = "\u{feff}1\r\n00:00:01,000 --> 00:00:02,500\r\n<font color=\"#fff\">Look,</font> <i>otters</i>!\r\n\
                   {\\an8}Up & away\r\n\r\n2\r\n01:00:00,5 --> 01:00:01,000 X1:40 X2:600\r\na < b\r\n";
        let expected = "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nLook, <i>otters</i>!\nUp &amp; away\n\n\
                        01:00:00.500 --> 01:00:01.000\na &lt; b\n";
        assert_eq!(to_vtt(srt.as_bytes()).unwrap(), expected);
        assert_eq!(to_vtt(expected.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn notes_styles_and_voices_go() {
        let vtt = "WEBVTT - made by KITHPLANT\n\nNOTE KITHPLANT\n\nSTYLE\n::cue { color: red }\n\nKITHPLANT\n\
                   00:01.000 --> 00:02.000 line:0 KITHPLANT\n<v KITHPLANT>Hello <c.KITHPLANT>you</c>\n";
        let clean = to_vtt(vtt.as_bytes()).unwrap();
        assert_eq!(clean, "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nHello you\n");
    }

    #[test]
    fn what_is_no_caption_is_refused() {
        for bad in [
            "",
            "hello",
            "<html>",
            "#EXTM3U\nhttp://x/y.ts",
            "1\n00:00 -> 00:01\nx",
            "WEBVTT\n\n00:02.0 --> 00:01.0\nx",
        ] {
            assert!(to_vtt(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(to_vtt(b"1\n00:00:01,000 --> 00:00:02,000\n\xff").unwrap_err().0.contains("byte 32"));
        assert!(to_vtt(&vec![b'a'; MAX_LEN + 1]).is_err());
    }

    #[test]
    fn a_log_of_positions_is_no_caption() {
        let log = "1\n00:00:01,000 --> 00:00:02,000\n[latitude: 47.123456] [longitude: 8.567890]\n";
        assert!(is_log(log.as_bytes()) && to_vtt(log.as_bytes()).is_err());
        assert!(!is_log(b"1\n00:00:01,000 --> 00:00:02,000\nHello\n") && !is_log(b"<html>"));
        // A line of marks that never end takes no longer for it.
        let long = format!("1\n00:00:01,000 --> 00:00:02,000\n{}\n", "<".repeat(200_000));
        assert!(to_vtt(long.as_bytes()).unwrap().len() > 700_000);
    }

    #[test]
    fn chapters_are_lines_or_captions() {
        let lines = "1:02:03 The end\n\n00:00 Start\n12:30.5 <b> & otters\n";
        let expected = [(0, "Start"), (750_500, "<b> & otters"), (3_723_000, "The end")];
        let owned =
            |all: &[(u64, &str)]| all.iter().map(|(at, t)| (*at, (*t).to_owned())).collect::<Vec<_>>();
        assert_eq!(chapters(lines.as_bytes()).unwrap(), owned(&expected));
        let vtt = "WEBVTT\n\n00:05.000 --> 00:09.000\nOne\n";
        assert_eq!(chapters(vtt.as_bytes()).unwrap(), owned(&[(5_000, "One")]));
        assert!(chapters(b"Start 00:00").unwrap_err().0.contains("line 1"));
        assert!(chapters(b"\n").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_made_is_read_again_as_it_is(text in "([0-9:.,<>&{}a\\-\\n \u{fc}]|-->|00:01|\\n\\n){0,80}") {
            if let Ok(once) = to_vtt(text.as_bytes()) {
                prop_assert_eq!(to_vtt(once.as_bytes()).unwrap(), once);
            }
            let _ = chapters(text.as_bytes());
        }
    }
}
