//! Files of films on this machine: found, looked at, cleaned, and sent to where they are published. The command line
//! and watched folders do it in the same way.

use crate::exit::{Context, Exit, Failure};
use crate::publish::{self, Extra, ExtraKind, Film};
use crate::video::{self, Plan};
use axum::body::Bytes;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc::Sender;

const CHUNK: usize = 256 * 1024;
/// Files of a folder at most.
const MAX_FILES: usize = 10_000;

/// A file that was looked at.
pub struct Looked {
    /// The file, or what was made of it.
    pub file: std::fs::File,
    /// What the file lies in, if it was made for this.
    pub _folder: Option<tempfile::TempDir>,
    /// Its path.
    pub path: PathBuf,
    /// Pictures that were made of it, before what else stands around it.
    pub made: Vec<(Extra, Vec<u8>)>,
    /// Its length.
    pub len: u64,
    /// What it was before it was looked at.
    pub stamp: Stamp,
    /// What is in it; `None`: it is no video.
    pub film: Option<Film>,
    /// The clean film.
    pub plan: Plan,
}

/// What is another one when a file was written to: its length, and when that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp([i64; 5]);

impl Stamp {
    fn of(about: &std::fs::Metadata) -> Self {
        Self([about.len() as i64, about.mtime(), about.mtime_nsec(), about.ctime(), about.ctime_nsec()])
    }
}

/// In place of a file with a picture: one out of the film.
pub const AUTO: &str = "auto";

/// What ffmpeg is to do.
#[derive(Clone, Copy)]
pub struct Wishes {
    /// See its name.
    pub convert: bool,
    /// See its name.
    pub poster: bool,
    /// See its name.
    pub storyboard: bool,
}

/// A file, its kind and its clean form, and what ffmpeg makes of it.
pub fn look(path: &Path, keep_metadata: bool, any_file: bool, wishes: Wishes) -> Result<Looked, Failure> {
    let plays =
        |looked: &Looked| looked.film.as_ref().is_some_and(|f| f.probe.browser == video::Browser::Yes);
    let mut looked = match clean(path, keep_metadata, any_file) {
        Ok(looked) if !wishes.convert || plays(&looked) => looked,
        Err(failure) if !wishes.convert => return Err(failure),
        _ => converted(path, keep_metadata)?,
    };
    if wishes.poster || wishes.storyboard {
        looked.made = pictures(&looked, wishes)?;
    }
    Ok(looked)
}

#[cfg(target_os = "linux")]
fn converted(path: &Path, keep_metadata: bool) -> Result<Looked, Failure> {
    let failed = |video::Refused(why): video::Refused| {
        Failure::new(Exit::UnsupportedMedia, format!("{}: it could not be converted: {why}", path.display()))
    };
    let (file, _) = open_source(path)?;
    let probe = video::probe(&file).ok().flatten();
    let folder =
        tempfile::Builder::new().prefix("kith-convert-").tempdir().context("cannot make a folder")?;
    let input = std::fs::canonicalize(path).context(format!("cannot open {}", path.display()))?;
    let made = crate::ffmpeg::convert(&input, probe.as_ref(), folder.path()).map_err(failed)?;
    let looked = clean(&made, keep_metadata, false)?;
    Ok(Looked { _folder: Some(folder), ..looked })
}

#[cfg(target_os = "linux")]
fn pictures(looked: &Looked, wishes: Wishes) -> Result<Vec<(Extra, Vec<u8>)>, Failure> {
    let failed = |what: &'static str| {
        move |video::Refused(why): video::Refused| {
            Failure::new(Exit::UnsupportedMedia, format!("the {what} could not be made: {why}"))
        }
    };
    let Some(film) = &looked.film else {
        return Err(Failure::new(Exit::UnsupportedMedia, "a picture can be made of videos only"));
    };
    let extra = |kind, bytes: &[u8], step_ms, columns| Extra {
        kind,
        bytes: bytes.len() as u64,
        lang: String::new(),
        label: String::new(),
        step_ms,
        columns,
    };
    let mut made = Vec::new();
    if wishes.poster {
        let jpeg = crate::ffmpeg::poster(looked.plan.clone().read(), &looked.file, &film.probe);
        let jpeg = jpeg.map_err(failed("poster"))?;
        made.push((extra(ExtraKind::Poster, &jpeg, 0, 0), jpeg));
    }
    if wishes.storyboard {
        let sheet = crate::ffmpeg::storyboard(looked.plan.clone().read(), &looked.file, &film.probe);
        let (jpeg, step_ms, columns) = sheet.map_err(failed("storyboard"))?;
        made.push((extra(ExtraKind::Storyboard, &jpeg, step_ms, columns), jpeg));
    }
    Ok(made)
}

#[cfg(not(target_os = "linux"))]
fn converted(_: &Path, _: bool) -> Result<Looked, Failure> {
    Err(Failure::new(Exit::UnsupportedMedia, "ffmpeg is used on Linux only, where it can be confined"))
}

#[cfg(not(target_os = "linux"))]
fn pictures(_: &Looked, _: Wishes) -> Result<Vec<(Extra, Vec<u8>)>, Failure> {
    Err(Failure::new(Exit::UnsupportedMedia, "ffmpeg is used on Linux only, where it can be confined"))
}

/// A file, its kind and its clean form.
fn clean(path: &Path, keep_metadata: bool, any_file: bool) -> Result<Looked, Failure> {
    let (file, about) = open_source(path)?;
    let (len, stamp) = (about.len(), Stamp::of(&about));
    let named =
        |failure: Failure| Failure::new(failure.exit, format!("{}: {}", path.display(), failure.what));
    let (film, plan) = if keep_metadata {
        let probe = video::probe(&file).map_err(|e| named(publish::uncleanable(e)))?;
        let film = probe.map(|probe| Film { probe, stripped: Vec::new(), metadata_kept: true });
        (film, Plan::whole(len))
    } else {
        match video::plan(&file).map_err(|e| named(publish::uncleanable(e)))? {
            Some(ready) => {
                let (probe, stripped) = (ready.report.probe, ready.report.stripped);
                (Some(Film { probe, stripped, metadata_kept: false }), ready.plan)
            }
            None => (None, Plan::whole(len)),
        }
    };
    if film.is_none() && !any_file {
        return Err(named(publish::no_video()));
    }
    Ok(Looked { file, _folder: None, path: path.to_owned(), made: Vec::new(), len, stamp, film, plan })
}

/// The videos in a folder and those below it, by name. Hidden files and links are left out.
pub fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let shown = folder.display();
    let list = std::fs::read_dir(folder).context(format!("cannot read {shown}"))?;
    let mut names: Vec<std::fs::DirEntry> =
        list.collect::<Result<_, _>>().context(format!("cannot read {shown}"))?;
    names.sort_by_key(std::fs::DirEntry::file_name);
    for entry in names {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().context(format!("cannot read {shown}"))?;
        let path = entry.path();
        if kind.is_dir() {
            walk(&path, files)?;
        } else if kind.is_file() && std::fs::File::open(&path).is_ok_and(|file| video::is_video(&file)) {
            if files.len() == MAX_FILES {
                let what =
                    format!("there are more than {MAX_FILES} videos in this folder: name a smaller one");
                return Err(Failure::new(Exit::Usage, what));
            }
            files.push(path);
        }
    }
    Ok(())
}

/// A file that goes with a film.
pub fn extra(kind: ExtraKind, path: &Path) -> Result<(Extra, PathBuf), Failure> {
    let about = std::fs::metadata(path).context(format!("cannot open {}", path.display()))?;
    if !about.is_file() {
        return Err(Failure::new(Exit::Usage, format!("{} is no regular file", path.display())));
    }
    let lang = if kind == ExtraKind::Captions { language(path) } else { String::new() };
    let extra = Extra { kind, bytes: about.len(), label: lang.clone(), lang, step_ms: 0, columns: 0 };
    Ok((extra, path.to_owned()))
}

/// The language in a name like `film.de.srt`.
fn language(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let last = stem.rsplit_once('.').map_or("", |(_, last)| last);
    let is_tag = (2..=16).contains(&last.len())
        && last.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && last.split('-').next().is_some_and(|first| (2..=3).contains(&first.len()));
    if is_tag { last.to_owned() } else { String::new() }
}

/// Captions, chapters and a poster that lie beside a film under its name.
pub fn beside(film: &Path) -> Result<Vec<(Extra, PathBuf)>, Failure> {
    let (Some(folder), Some(stem)) = (film.parent(), film.file_stem()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", stem.to_string_lossy());
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let list = std::fs::read_dir(folder).context(format!("cannot read {}", folder.display()))?;
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.context(format!("cannot read {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) =
            name.strip_prefix(&prefix).filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file()))
        else {
            continue;
        };
        let kind = match rest.rsplit('.').next().unwrap_or_default() {
            "srt" | "vtt" if rest.matches('.').count() <= 1 => ExtraKind::Captions,
            "jpg" | "jpeg" | "png" | "webp" if !rest.contains('.') => ExtraKind::Poster,
            _ => continue,
        };
        // A log of positions that a drone put there is none of its captions.
        let is_log = kind == ExtraKind::Captions
            && std::fs::metadata(entry.path())
                .is_ok_and(|about| about.len() <= video::captions::MAX_LEN as u64)
            && std::fs::read(entry.path()).is_ok_and(|file| video::captions::is_log(&file));
        if is_log {
            continue;
        }
        let is_second =
            kind == ExtraKind::Poster && found.iter().any(|(extra, _): &(Extra, _)| extra.kind == kind);
        if found.len() < kith_crypto::content::MAX_PARTS && !is_second {
            found.push(extra(kind, &entry.path())?);
        }
    }
    found.sort_by(|(_, a), (_, b)| a.cmp(b));
    Ok(found)
}

/// The title of a film by the name of its file; cameras write into that when it was made, which is left out.
pub fn title_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    kith_crypto::text::cut(&untold(&stem), kith_crypto::content::MAX_TITLE_LEN).to_owned()
}

/// Words that cameras and telephones put in front of when something was made.
const OF_CAMERAS: [&str; 25] = [
    "img",
    "vid",
    "mvi",
    "mov",
    "dsc",
    "dscn",
    "dscf",
    "pxl",
    "dji",
    "gopr",
    "gp",
    "gx",
    "gh",
    "wa",
    "whatsapp",
    "signal",
    "video",
    "clip",
    "screen",
    "recording",
    "screenrecorder",
    "rpreplay",
    "final",
    "gmt",
    "at",
];

/// A name without a date in it, and without what follows on a date: a time, a number.
fn untold(name: &str) -> String {
    let is_mark = |c: char| c.is_whitespace() || matches!(c, '_' | '-' | '.' | ',' | '(' | ')' | '~' | ':');
    let words: Vec<&str> = name.split(is_mark).filter(|word| !word.is_empty()).collect();
    let mut left = words.as_slice();
    let (mut kept, mut had_date) = (Vec::new(), false);
    while let [word, rest @ ..] = left {
        if let Some(behind) = date_in_words(left) {
            (left, had_date) = (behind, true);
            continue;
        }
        left = rest;
        if let Some(before) = date_in_a_word(word) {
            had_date = true;
            kept.extend((!before.is_empty()).then_some(before));
            continue;
        }
        // Hours, minutes, seconds, a number among others of that day.
        let is_number = word.bytes().any(|b| b.is_ascii_digit())
            && word.bytes().all(|b| b.is_ascii_digit() || b"hmsZTWA".contains(&b));
        if !(had_date && is_number) {
            kept.push(*word);
        }
    }
    if !had_date {
        return name.trim().to_owned();
    }
    let means = |word: &&str| !OF_CAMERAS.contains(&word.to_ascii_lowercase().as_str());
    if kept.iter().any(means) { kept.join(" ") } else { "untitled".into() }
}

fn is_date(year: &str, month: &str, day: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let is_in = |text: &str, range: std::ops::RangeInclusive<u32>| {
        is_number(text) && text.parse().is_ok_and(|number| range.contains(&number))
    };
    is_in(year, 1970..=2099) && is_in(month, 1..=12) && is_in(day, 1..=31)
}

/// Eight digits, and more of them at once behind where a time or thousandths follow; or seconds, or thousandths, since
/// 1970. Letters may stand around them, and those in front are returned.
fn date_in_a_word(word: &str) -> Option<&str> {
    let (before, rest) = word.split_at(word.find(|c: char| c.is_ascii_digit())?);
    let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    let [year, month, day] = [0..4, 4..6, 6..8].map(|range| digits.get(range).unwrap_or_default());
    let seconds = || digits.get(..10)?.parse::<u64>().ok().filter(|_| matches!(digits.len(), 10 | 13));
    let is_time = || seconds().is_some_and(|seconds| (1_000_000_000..2_200_000_000).contains(&seconds));
    let is = (is_date(year, month, day) || is_time()) && !after.bytes().any(|b| b.is_ascii_digit());
    is.then_some(before)
}

/// What is left after a date in three words, which may begin with the day or, as in America, the month. A time may be
/// joined to its end (ISO 8601).
fn date_in_words<'a, 'w>(words: &'w [&'a str]) -> Option<&'w [&'a str]> {
    let [a, b, c, rest @ ..] = words else { return None };
    let c = c.split_once('T').map_or(*c, |(day, _)| day);
    let is = match [a.len(), b.len(), c.len()] {
        [4, 2, 2] => is_date(a, b, c),
        [2, 2, 4] => is_date(c, b, a) || is_date(c, a, b),
        _ => false,
    };
    is.then_some(rest)
}

/// What names a file until it changes.
pub fn source_of(path: &Path) -> Result<publish::SourceId, Failure> {
    let about = std::fs::metadata(path).context(format!("cannot open {}", path.display()))?;
    let whole = std::fs::canonicalize(path).context(format!("cannot open {}", path.display()))?;
    let modified = i128::from(about.mtime()) * 1_000_000_000 + i128::from(about.mtime_nsec());
    let path = whole.to_string_lossy().into_owned();
    Ok(publish::SourceId { path, bytes: about.len(), modified: modified.to_string() })
}

/// Sends what stands around a film.
pub fn send_extras(extras: &[(Extra, PathBuf)], to: &Sender<Result<Bytes, Failure>>) -> Result<(), Failure> {
    for (extra, path) in extras {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).context(format!("cannot open {}", path.display()))?;
        file.take(extra.bytes + 1)
            .read_to_end(&mut bytes)
            .context(format!("cannot read {}", path.display()))?;
        if bytes.len() as u64 != extra.bytes {
            return Err(changed(path));
        }
        let _ = to.blocking_send(Ok(bytes.into()));
    }
    Ok(())
}

fn changed(path: &Path) -> Failure {
    let what = format!("{} changed while it was published: try again when it is finished", path.display());
    Failure::new(Exit::Failure, what)
}

fn open_source(path: &Path) -> Result<(std::fs::File, std::fs::Metadata), Failure> {
    let shown = path.display();
    // Opening a pipe would wait for somebody to write into it.
    let about = std::fs::metadata(path).context(format!("cannot open {shown}"))?;
    if !about.is_file() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{shown} is no regular file: pipe it in with `kith publish -`"),
        ));
    }
    if about.len() > kith_crypto::content::MAX_BLOCKS * kith_crypto::content::BLOCK_LEN as u64 {
        return Err(Failure::new(
            Exit::Usage,
            format!("{shown} is larger than 256 GiB, the most that is possible"),
        ));
    }
    let file = std::fs::File::open(path).context(format!("cannot open {shown}"))?;
    let about = file.metadata().context(format!("cannot open {shown}"))?;
    Ok((file, about))
}

/// Sends the clean form of a file. A file that changed since it was looked at is an error, and its last piece is held
/// back until that is sure.
pub fn send_file(looked: Looked, to: &Sender<Result<Bytes, Failure>>) -> Result<(), Failure> {
    let Looked { file, stamp, plan, path, _folder, .. } = looked;
    let path = path.as_path();
    let mut reading = plan.read();
    let mut held: Option<Vec<u8>> = None;
    loop {
        let chunk = reading.next(&file, CHUNK).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(path),
            _ => Failure::new(Exit::Failure, format!("cannot read {}: {e}", path.display())),
        })?;
        let is_end = chunk.is_empty();
        if is_end {
            let after = file.metadata().context("cannot read the file")?;
            if Stamp::of(&after) != stamp {
                return Err(changed(path));
            }
        }
        if let Some(held) = held.replace(chunk)
            && to.blocking_send(Ok(held.into())).is_err()
        {
            return Ok(());
        }
        if is_end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_in_a_name_is_no_part_of_the_title() {
        for (name, title) in [
            ("PXL_20240131_142233456.mp4", "untitled"),
            ("VID-20240131-WA0012.mp4", "untitled"),
            ("20240131142233.mp4", "untitled"),
            ("RPReplay_Final1706712153.mp4", "untitled"),
            ("GMT20240131-142233_Recording.mp4", "untitled"),
            ("2024-01-31T14:22:33 Otters.mp4", "Otters"),
            ("Party20240131.mp4", "Party"),
            ("1706712153123.mp4", "untitled"),
            ("Signal-2024-01-31-14-22-33-123.mp4", "untitled"),
            ("Screen Recording 2024-01-31 at 14.22.33.mov", "untitled"),
            ("2024-01-31 Birthday.mp4", "Birthday"),
            ("Harvest 31.01.2024.mkv", "Harvest"),
            ("Blade Runner 2049.mkv", "Blade Runner 2049"),
            ("IMG_0042.mov", "IMG_0042"),
            ("Apollo 11 1969 part 2.mp4", "Apollo 11 1969 part 2"),
            ("99999999.mp4", "99999999"),
            (" spaced .mp4", "spaced"),
        ] {
            assert_eq!(title_of(Path::new(name)), title, "{name}");
        }
    }
}
