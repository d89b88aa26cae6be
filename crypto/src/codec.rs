//! The reader and writer that every wire and disk format is built on.
//!
//! Integers are little-endian. Lengths stand before what they measure and are checked against the
//! caller's cap before anything is taken. A decoder ends with [`Reader::finish`], so trailing bytes
//! are an error: one value has one encoding.

/// Why bytes could not be decoded. `at` is the offset of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends inside a field.
    Truncated {
        /// Offset of the field.
        at: usize,
    },
    /// Bytes follow the end of the value.
    Trailing {
        /// Offset of the first surplus byte.
        at: usize,
    },
    /// A field holds a value that this format does not allow, or not in this form.
    Invalid {
        /// Offset of the field.
        at: usize,
        /// Name of the field.
        what: &'static str,
    },
    /// A length or count above its cap.
    TooLarge {
        /// Offset of the field.
        at: usize,
        /// Name of the field.
        what: &'static str,
    },
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated { at } => write!(f, "it ends too early (byte {at})"),
            Self::Trailing { at } => write!(f, "it has surplus bytes (from byte {at})"),
            Self::Invalid { at, what } => write!(f, "{what} is not valid (byte {at})"),
            Self::TooLarge { at, what } => write!(f, "{what} is too large (byte {at})"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Takes fields off the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub const fn at(&self) -> usize {
        self.at
    }

    /// Bytes not yet taken.
    pub const fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { at: self.at })?;
        self.rest = rest;
        self.at += len;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { at: self.at })?;
        self.rest = rest;
        self.at += N;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A byte string with a one-byte length of at most `cap`.
    pub fn bytes8(&mut self, cap: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let len = usize::from(self.u8()?);
        if len > cap {
            return Err(DecodeError::TooLarge { at, what });
        }
        self.take(len)
    }

    /// A byte string with a two-byte length of at most `cap`.
    pub fn bytes16(&mut self, cap: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let at = self.at;
        let len = usize::from(self.u16()?);
        if len > cap {
            return Err(DecodeError::TooLarge { at, what });
        }
        self.take(len)
    }

    /// UTF-8 text with a one-byte length of at most `cap` bytes.
    pub fn text8(&mut self, cap: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        let at = self.at;
        let bytes = self.bytes8(cap, what)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid { at, what })
    }

    /// UTF-8 text with a two-byte length of at most `cap` bytes.
    pub fn text16(&mut self, cap: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        let at = self.at;
        let bytes = self.bytes16(cap, what)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid { at, what })
    }

    /// A flag that is exactly 0 or 1.
    pub fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid { at, what }),
        }
    }

    /// An error about the field that starts at the current offset.
    pub const fn invalid(&self, what: &'static str) -> DecodeError {
        DecodeError::Invalid { at: self.at, what }
    }

    /// All that is left must be zero bytes (padding of fixed-size forms).
    pub fn zeros(&mut self) -> Result<(), DecodeError> {
        match self.rest.iter().position(|b| *b != 0) {
            Some(i) => Err(DecodeError::Invalid { at: self.at + i, what: "padding" }),
            None => Ok(()),
        }
    }

    /// Ends the value: nothing may be left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { at: self.at }) }
    }
}

/// Appends fields to a byte vector.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty value.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Raw bytes whose length the format fixes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.raw(&[v])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// A byte string with a one-byte length. Longer input is cut at 255 bytes: callers cap before.
    pub fn bytes8(&mut self, bytes: &[u8]) -> &mut Self {
        let cut = bytes.get(..255).unwrap_or(bytes);
        self.u8(cut.len() as u8).raw(cut)
    }

    /// A byte string with a two-byte length. Longer input is cut at 65,535 bytes: callers cap before.
    pub fn bytes16(&mut self, bytes: &[u8]) -> &mut Self {
        let cut = bytes.get(..65_535).unwrap_or(bytes);
        self.u16(cut.len() as u16).raw(cut)
    }

    /// Zero bytes up to a length of `len`.
    pub fn pad_to(&mut self, len: usize) -> &mut Self {
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The finished value.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The value so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
