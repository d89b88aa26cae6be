pub(crate) fn halves(_: u64) {}
pub(crate) fn bytes(_: &[u64]) {}
