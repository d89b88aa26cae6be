//! The program itself: version, completions, manual pages. No node is needed.

use super::*;
use crate::cli::Cli;
use clap::CommandFactory as _;
use kith_onion::handshake::MAJOR as PROTOCOL;

/// `kith version`
pub fn version(json: bool) -> Result<(), Failure> {
    let features: Vec<&str> = env!("KITH_FEATURES").split(',').filter(|f| !f.is_empty()).collect();
    let (version, rustc, target) = (env!("CARGO_PKG_VERSION"), env!("KITH_RUSTC"), env!("KITH_TARGET"));
    if json {
        let value = json!({
            "version": version, "protocol": PROTOCOL, "features": features, "rustc": rustc, "target": target,
        });
        return out(&value.to_string());
    }
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    out(&format!("kith {version}\nprotocol {PROTOCOL}\nfeatures {features}\n{rustc}\ntarget   {target}"))
}

/// `kith completions`
pub fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kith", &mut bytes);
    out(String::from_utf8_lossy(&bytes).trim_end())
}

/// `kith man`
pub fn man(dir: &Path, json: bool) -> Result<(), Failure> {
    if !dir.is_dir() {
        let what = format!("{} is no folder: make it first", dir.display());
        return Err(Failure::new(Exit::NotFound, what));
    }
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    write_pages(&command, "kith", dir, &mut pages)?;
    if json {
        return out(&json!({"dir": dir.display().to_string(), "pages": pages}).to_string());
    }
    out(&format!(
        "{} pages in {}; read one with `man -l {}/kith.1`",
        pages.len(),
        dir.display(),
        dir.display()
    ))
}

fn write_pages(
    command: &clap::Command,
    name: &str,
    dir: &Path,
    pages: &mut Vec<String>,
) -> Result<(), Failure> {
    let file = format!("{name}.1");
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut bytes)?;
    std::fs::write(dir.join(&file), bytes).context(format!("cannot write {file}"))?;
    pages.push(file);
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        .try_for_each(|sub| write_pages(sub, &format!("{name}-{}", sub.get_name()), dir, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}
