//! Sizes as people write them: `500MB`, `20GiB`, `1.5TB`.

/// Smallest quota: less holds no video.
pub const MIN_QUOTA: u64 = 1 << 20;
/// Largest size of all.
pub const MAX: u64 = 1000 << 40;

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads a size: a number with up to three decimals and a unit, without a space.
pub fn parse(text: &str) -> Option<u64> {
    let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit());
    let fraction_missing = number.contains('.') && part.is_empty();
    if whole.is_empty() || fraction_missing || !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(*factor)?;
    let thousandths: u64 = format!("{part:0<3}").parse().ok()?;
    whole.checked_add(factor.checked_mul(thousandths)? / 1000)
}

/// Writes a size so that [`parse`] reads the same one: in the unit that makes it shortest.
pub fn format(bytes: u64) -> String {
    let fits = UNITS.iter().filter(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    let written = fits.map(|(unit, factor)| format!("{}{unit}", bytes / factor)).min_by_key(String::len);
    written.unwrap_or_else(|| format!("{bytes}B"))
}

/// A round size that is large enough, for advice: whole GiB, or whole MiB below.
pub fn at_least(bytes: u64) -> String {
    let unit = if bytes > 1 << 30 { 1 << 30 } else { 1 << 20 };
    format(bytes.max(1).div_ceil(unit).saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_and_write() {
        let cases =
            [("20GiB", 20 << 30), ("500MB", 500_000_000), ("512MiB", 512 << 20), ("1TB", 1_000_000_000_000)];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Some(bytes));
            assert_eq!(format(bytes), text);
        }
        assert_eq!((parse("1.5GiB"), parse("0B"), format(0)), (Some(3 << 29), Some(0), "0B".into()));
        for bad in
            ["", "5", "GiB", "5 GiB", "-5GB", "1.GB", "1.2345GB", "5gb", "99999999999999999999B", "９GB"]
        {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert_eq!((at_least(1), at_least((20 << 30) + 1)), ("1MiB".into(), "21GiB".into()));
        assert_eq!(at_least(8 << 20), "8MiB");
    }

    proptest! {
        #[test]
        fn written_sizes_read_back(bytes in any::<u64>()) {
            if bytes < 1_000_000_000_000_000 {
                prop_assert_eq!(parse(&format(bytes)), Some(bytes));
            }
            let _ = at_least(bytes);
        }
    }
}
