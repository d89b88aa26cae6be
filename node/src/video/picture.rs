//! Posters: any JPEG, PNG or WebP becomes a small JPEG. It is drawn anew, so nothing but the picture stays.

use super::{Refused, refused};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageReader, Limits};
use std::io::Cursor;

/// The largest file that is read.
pub const MAX_LEN: usize = 10 << 20;
/// Pixels of either side at most.
const MAX_SIDE: u32 = 12_000;
/// Memory for a picture while it is made smaller.
const MAX_MEMORY: u64 = 160 << 20;
/// Of the poster.
const WIDTH: u32 = 640;
const HEIGHT: u32 = 640;

/// Makes a poster of at most `most` bytes.
pub fn poster(file: &[u8], most: usize) -> Result<Vec<u8>, Refused> {
    drawn(file, WIDTH, HEIGHT, most)
}

/// Draws a sheet of many small pictures anew.
pub fn sheet(file: &[u8], most: usize) -> Result<Vec<u8>, Refused> {
    drawn(file, MAX_SIDE, MAX_SIDE, most)
}

fn drawn(file: &[u8], width: u32, height: u32, most: usize) -> Result<Vec<u8>, Refused> {
    if file.len() > MAX_LEN {
        return refused(format!("it has more than {} MiB", MAX_LEN >> 20));
    }
    let bad = |e: &dyn std::fmt::Display| {
        Refused(format!("it is no picture that kith can read (JPEG, PNG, WebP): {e}"))
    };
    let mut reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(|e| bad(&e))?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_MEMORY);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| bad(&e))?;
    let mut small = picture.thumbnail(width.min(picture.width()), height.min(picture.height())).into_rgb8();
    loop {
        for quality in [80, 60, 40, 25] {
            let mut out = Vec::new();
            JpegEncoder::new_with_quality(&mut out, quality).encode_image(&small).map_err(|e| bad(&e))?;
            if out.len() <= most {
                return Ok(out);
            }
        }
        let (width, height) = (small.width() / 2, small.height() / 2);
        if width.min(height) < 16 {
            return refused("it cannot be made small enough");
        }
        small = DynamicImage::ImageRgb8(small).thumbnail(width, height).into_rgb8();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, RgbImage};

    fn noise(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut n = 1_u32;
        let picture = RgbImage::from_fn(width, height, |_, _| {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            image::Rgb([(n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8])
        });
        let mut out = Cursor::new(Vec::new());
        picture.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    #[test]
    fn any_picture_becomes_a_small_one_without_anything_else() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let mut file = noise(900, 500, format);
            if format == ImageFormat::Jpeg {
                // A comment behind the first mark, and something behind the picture.
                file.splice(2..2, *b"\xff\xfe\0\x0bKITHPLANT");
                file.extend(b"KITHPLANT");
            }
            let small = poster(&file, 32_768).unwrap();
            assert!(small.len() <= 32_768 && small.starts_with(b"\xff\xd8\xff"));
            assert!(!small.windows(9).any(|w| w == b"KITHPLANT"));
            let again = image::load_from_memory(&small).unwrap();
            assert!(again.width() <= 640 && again.height() <= 640);
        }
        let tiny = poster(&noise(20, 10, ImageFormat::Png), 32_768).unwrap();
        let again = image::load_from_memory(&tiny).unwrap();
        assert_eq!((again.width(), again.height()), (20, 10));
    }

    #[test]
    fn what_is_no_picture_or_too_large_is_refused() {
        for bad in [&b""[..], b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a\x01\0\x01\0", b"<svg xmlns='x'/>"] {
            assert!(poster(bad, 32_768).is_err(), "{bad:?}");
        }
        // A picture of 60,000 by 60,000 by its header.
        let mut bomb = noise(20, 10, ImageFormat::Png);
        bomb[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        assert!(poster(&bomb, 32_768).is_err());
        assert!(poster(&vec![0; MAX_LEN + 1], 32_768).is_err());
    }
}
