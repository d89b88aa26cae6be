//! Later.
use crate::cli;
use crate::exit::Failure;
/// demo
pub async fn run(_args: &cli::Demo) -> Result<(), Failure> {
    Ok(())
}
