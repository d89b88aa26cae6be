//! A program that looks at a foreign file, confined: `kith` starts itself again, takes from itself what the program
//! does not need, and becomes the program. It has no network, opens no file but those it was given and the system's
//! libraries, and ends when it takes too long or too much.
//!
//! What confines: limits of the process (setrlimit), no new privileges, a filter of system calls (seccomp, through
//! `seccompiler`) without sockets, other programs and tracing, and rules for files (Landlock, through `landlock`) where
//! the kernel has them. Only safe wrappers are used.

use crate::exit::{Exit, Failure};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr,
};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The hidden first argument.
pub const ARGUMENT: &str = "confined-program";
/// Where programs and their libraries are; read and executed, never written.
const SYSTEM: [&str; 7] =
    ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/proc/self"];
/// So much memory.
const MEMORY: u64 = 2 << 30;
/// Files open at once.
const FILES: u64 = 64;

/// What the program may do.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// Seconds of the processor.
    pub cpu_s: u64,
    /// The largest file that it may write.
    pub file_bytes: u64,
    /// Files that it may read.
    pub reads: Vec<PathBuf>,
    /// A folder in which it may do as it likes.
    pub writes: Option<PathBuf>,
}

/// The command that runs `program` within `bounds`.
pub fn command(program: &Path, bounds: &Bounds) -> Result<Command, Failure> {
    let own = std::env::current_exe()
        .map_err(|e| Failure::new(Exit::Failure, format!("cannot find the program kith itself: {e}")))?;
    let mut command = Command::new(own);
    command.env_clear().arg(ARGUMENT);
    command.arg(bounds.cpu_s.to_string()).arg(bounds.file_bytes.to_string());
    command.arg(bounds.writes.as_deref().unwrap_or(Path::new("")));
    command.arg(bounds.reads.len().to_string()).args(&bounds.reads).arg(program);
    Ok(command)
}

/// Becomes the program: the arguments are those of [`command`] behind the first. Returns only an error.
pub fn become_program(mut args: impl Iterator<Item = std::ffi::OsString>) -> String {
    let mut number = || args.next()?.into_string().ok()?.parse::<u64>().ok();
    let (Some(cpu_s), Some(file_bytes)) = (number(), number()) else {
        return "its limits are missing".into();
    };
    let writes = args.next().filter(|path| !path.is_empty()).map(PathBuf::from);
    let count = args.next().and_then(|n| n.into_string().ok()?.parse::<usize>().ok()).unwrap_or(0);
    let reads: Vec<PathBuf> = args.by_ref().take(count).map(PathBuf::from).collect();
    let Some(program) = args.next() else { return "its name is missing".into() };
    let bounds = Bounds { cpu_s, file_bytes, reads, writes };
    match confine(&bounds) {
        Ok(()) => Command::new(program).args(args).env_clear().exec().to_string(),
        Err(why) => why,
    }
}

fn confine(bounds: &Bounds) -> Result<(), String> {
    let limit = |resource, most: u64| {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|e| format!("a limit could not be set: {e}"))
    };
    limit(Resource::Cpu, bounds.cpu_s)?;
    limit(Resource::As, MEMORY)?;
    limit(Resource::Fsize, bounds.file_bytes)?;
    limit(Resource::Nofile, FILES)?;
    limit(Resource::Core, 0)?;
    // Whoever started it may be gone before it is done.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| e.to_string())?;
    rustix::thread::set_no_new_privs(true).map_err(|e| e.to_string())?;
    restrict_files(bounds).map_err(|e| format!("files could not be restricted: {e}"))?;
    restrict_calls().map_err(|e| format!("system calls could not be restricted: {e}"))
}

fn restrict_files(bounds: &Bounds) -> Result<(), landlock::RulesetError> {
    let abi = ABI::V4;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let mut rules =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()?;
    let paths = SYSTEM.iter().map(|path| (PathBuf::from(path), read));
    let paths = paths.chain(bounds.reads.iter().map(|path| (path.clone(), AccessFs::ReadFile.into())));
    for (path, access) in paths.chain(bounds.writes.iter().map(|path| (path.clone(), all))) {
        // What is not there needs no rule.
        if let Ok(opened) = PathFd::new(&path) {
            rules = rules.add_rule(PathBeneath::new(opened, access))?;
        }
    }
    rules.restrict_self()?;
    Ok(())
}

/// Calls that no reader of a file needs: whoever makes one gets an error.
fn restrict_calls() -> Result<(), seccompiler::Error> {
    // A process of its own is what is cloned without CLONE_THREAD (0x10000).
    let is_process = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(0x1_0000), 0);
    let is_process = is_process.and_then(|is| SeccompRule::new(vec![is]))?;
    let refused = REFUSED.iter().map(|call| (*call, Vec::new()));
    // EPERM
    refuse(refused.chain([(CLONE, vec![is_process])]).collect(), 1)?;
    // Its arguments lie in memory, where no filter looks: as if this kernel had no such call (ENOSYS), threads are made by
    // the older one.
    refuse(BTreeMap::from([(CLONE3, Vec::new())]), 38)
}

fn refuse(calls: BTreeMap<i64, Vec<SeccompRule>>, error: u32) -> Result<(), seccompiler::Error> {
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(error), arch)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

/// clone3 has one number everywhere.
const CLONE3: i64 = 435;
#[cfg(target_arch = "x86_64")]
const CLONE: i64 = 56;
#[cfg(target_arch = "aarch64")]
const CLONE: i64 = 220;

/// socket, connect, accept, sendto, sendmsg, bind, listen, socketpair, accept4, ptrace, mount, umount2, kexec_load,
/// init_module, finit_module, bpf, keyctl, add_key, userfaultfd, perf_event_open, process_vm_readv and _writev, unshare,
/// setns, kill, tkill, tgkill, io_uring_setup, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal, pidfd_getfd; fork
/// and vfork.
#[cfg(target_arch = "x86_64")]
const REFUSED: [i64; 34] = [
    41, 42, 43, 44, 46, 49, 50, 53, 288, 101, 165, 166, 246, 175, 313, 321, 250, 248, 323, 298, 310, 311,
    272, 308, 62, 200, 234, 425, 129, 297, 424, 438, 57, 58,
];
/// The same by the numbers of arm64, which has no fork.
#[cfg(target_arch = "aarch64")]
const REFUSED: [i64; 32] = [
    198, 203, 202, 206, 211, 200, 201, 199, 242, 117, 40, 39, 104, 105, 273, 280, 219, 217, 282, 241, 270,
    271, 97, 268, 129, 130, 131, 425, 138, 240, 424, 438,
];
