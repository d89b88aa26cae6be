//! Subtitles that are in truth a log of where a camera was, as drones and dash cameras write them. They are told by
//! what stands in them, as they carry no other sign.

/// Words that stand before places in such logs, lower case.
const WORDS: [&str; 8] = ["gps", "latitude", "longitude", "lat:", "lon:", "$gprmc", "$gpgga", "home("];

/// Whether a text tells of a place on earth: one of the words above with a number that has decimals, or two numbers
/// with four decimals or more.
pub fn tells_positions(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let fine = decimals(&text).filter(|places| *places >= 4).count();
    fine >= 2 || (WORDS.iter().any(|word| text.contains(word)) && decimals(&text).any(|places| places >= 2))
}

/// For each number with a point how many digits follow it.
fn decimals(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.match_indices('.').filter_map(|(at, _)| {
        let before = text.get(..at)?.chars().next_back()?;
        let places = text.get(at + 1..)?.bytes().take_while(u8::is_ascii_digit).count();
        (before.is_ascii_digit() && places > 0).then_some(places)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_told_from_what_people_say() {
        for log in [
            "F/2.8, SS 206.14, ISO 100, EV 0, GPS (8.5678, 47.1234, 18), D 14.94m, H 6.00m",
            "[latitude: 47.123456] [longitude: 8.567890]",
            "HOME(8.5678,47.1234) 2019.07.13 11:22:33",
            "47.12345 8.56789",
            "$GPRMC,112233.00,A,4707.404,N,00834.068,E",
        ] {
            assert!(tells_positions(log.as_bytes()), "{log}");
        }
        for said in [
            "It costs 3.50.",
            "My GPS is broken.",
            "Version 2.4.1 came out in 2019.",
            "Pi is 3.14159, roughly.",
            "The latitude of it!",
            "",
        ] {
            assert!(!tells_positions(said.as_bytes()), "{said}");
        }
    }
}
