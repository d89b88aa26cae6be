//! What codecs are called, and whether browsers play them.

use super::Browser;
use super::Browser::{No, Some, Yes};

/// A codec by the four letters of its sample entry in MP4 and MOV.
pub fn of_entry(kind: [u8; 4]) -> Option<(&'static str, Browser)> {
    Option::Some(match &kind {
        b"avc1" | b"avc2" | b"avc3" | b"avc4" => ("H.264", Yes),
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => ("HEVC (H.265)", Some),
        b"av01" => ("AV1", Yes),
        b"vp08" => ("VP8", Some),
        b"vp09" => ("VP9", Yes),
        b"mp4v" => ("MPEG-4 Visual", No),
        b"s263" | b"h263" => ("H.263", No),
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => ("ProRes", No),
        b"mp4a" => ("AAC", Yes),
        b".mp3" | b"ms\0\x55" => ("MP3", Yes),
        b"Opus" => ("Opus", Yes),
        b"fLaC" => ("FLAC", Yes),
        b"alac" => ("ALAC", Some),
        b"ac-3" => ("AC-3", Some),
        b"ec-3" => ("E-AC-3", Some),
        b"samr" | b"sawb" => ("AMR", No),
        b"NONE" | b"sowt" | b"twos" | b"lpcm" | b"ipcm" | b"fpcm" | b"in24" | b"in32" | b"fl32" | b"fl64"
        | b"raw " => ("PCM", No),
        b"tx3g" | b"text" => ("text", No),
        b"wvtt" => ("WebVTT", No),
        b"stpp" => ("TTML", No),
        b"c608" | b"c708" => ("closed captions", No),
        _ => return None,
    })
}

/// A codec of MP4's object types, which a sample entry of the name `mp4a` or `mp4v` may hold.
pub fn of_object_type(object_type: u8) -> Option<(&'static str, Browser)> {
    Option::Some(match object_type {
        0x40 | 0x66..=0x68 => ("AAC", Yes),
        0x69 | 0x6B => ("MP3", Yes),
        0x20 => ("MPEG-4 Visual", No),
        0x60..=0x65 => ("MPEG-2", No),
        0x6A => ("MPEG-1", No),
        0xA5 => ("AC-3", Some),
        0xA6 => ("E-AC-3", Some),
        0xA9 | 0xAC => ("DTS", No),
        0xAD => ("Opus", Yes),
        0xDD => ("Vorbis", Some),
        _ => return None,
    })
}

/// A codec by its name in Matroska.
pub fn of_matroska(id: &str) -> Option<(&'static str, Browser)> {
    Option::Some(match id {
        "V_MPEG4/ISO/AVC" => ("H.264", Yes),
        "V_MPEGH/ISO/HEVC" => ("HEVC (H.265)", Some),
        "V_AV1" => ("AV1", Yes),
        "V_VP8" => ("VP8", Yes),
        "V_VP9" => ("VP9", Yes),
        "V_THEORA" => ("Theora", No),
        "A_OPUS" => ("Opus", Yes),
        "A_VORBIS" => ("Vorbis", Yes),
        "A_FLAC" => ("FLAC", Some),
        "A_AC3" => ("AC-3", Some),
        "A_EAC3" => ("E-AC-3", Some),
        "A_MPEG/L3" => ("MP3", Some),
        "S_TEXT/UTF8" => ("SubRip", No),
        "S_TEXT/ASS" | "S_TEXT/SSA" => ("ASS", No),
        "S_TEXT/WEBVTT" | "D_WEBVTT/SUBTITLES" => ("WebVTT", No),
        _ if id.starts_with("A_AAC") => ("AAC", Yes),
        _ if id.starts_with("A_DTS") => ("DTS", No),
        _ if id.starts_with("A_PCM") => ("PCM", No),
        "A_MPEG/L1" | "A_MPEG/L2" => ("MPEG audio", No),
        "A_ALAC" => ("ALAC", Some),
        "A_TRUEHD" | "A_MLP" => ("TrueHD", No),
        "V_PRORES" => ("ProRes", No),
        "V_UNCOMPRESSED" => ("uncompressed", No),
        "S_ASS" | "S_SSA" => ("ASS", No),
        "S_VOBSUB" => ("VobSub", No),
        "S_HDMV/PGS" => ("PGS", No),
        _ if id.starts_with("V_MPEG4/ISO") => ("MPEG-4 Visual", No),
        "V_MPEG1" | "V_MPEG2" => ("MPEG-2", No),
        _ => return None,
    })
}

/// A codec by its number in a transport stream.
pub fn of_stream_type(stream_type: u8) -> Option<(super::Kind, &'static str)> {
    use super::Kind::{Audio, Text, Video};
    Option::Some(match stream_type {
        0x01 => (Video, "MPEG-1"),
        0x02 => (Video, "MPEG-2"),
        0x10 => (Video, "MPEG-4 Visual"),
        0x1B => (Video, "H.264"),
        0x24 => (Video, "HEVC (H.265)"),
        0x33 => (Video, "VVC (H.266)"),
        0x03 | 0x04 => (Audio, "MP3"),
        0x0F | 0x11 => (Audio, "AAC"),
        0x81 => (Audio, "AC-3"),
        0x87 => (Audio, "E-AC-3"),
        0x82 | 0x85 | 0x8A => (Audio, "DTS"),
        0x90 => (Text, "PGS"),
        _ => return None,
    })
}
