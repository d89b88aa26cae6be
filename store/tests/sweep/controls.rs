//! The controls: disks that lie, and bytes that change. The same checks must find that acknowledged things
//! are lost.

use crate::kit::model::{Look, Loss, Model};
use crate::kit::workload::{Run, Step, reopen, workload};
use crate::power::power_sweep;
use crate::{CONTROL, arc};
use kith_store::backend::Crashing;
use std::path::Path;

#[test]
fn a_disk_whose_syncs_do_nothing_is_found_out() {
    let figures = power_sweep(|| Crashing::default().with_lying_sync(), &workload(0), CONTROL);
    figures.report("control: syncs of files do nothing");
    assert!(figures.losses.len() > 50, "{figures:?}");
}

#[test]
fn a_disk_whose_folders_are_never_synced_is_found_out() {
    let figures = power_sweep(|| Crashing::default().with_lying_sync_dir(), &workload(0), CONTROL);
    figures.report("control: syncs of folders do nothing");
    assert!(figures.losses.len() > 50, "{figures:?}");
}

/// Power is cut after a publication was acknowledged; `lie` begins before it.
fn loss_of_a_publication(lie: fn(Crashing) -> Crashing) -> Result<(), Loss> {
    let disk = Crashing::default();
    let mut run = Run::on(arc(disk.clone()), Model::default());
    run.go(&[Step::Append(vec![b"before".to_vec()])]).map_err(|e| e.to_string())?;
    drop(lie(disk.clone()));
    run.step(&Step::Publish((1, 1), b"entry".to_vec())).map_err(|e| e.to_string())?;
    run.close();
    reopen(&arc(disk.image(0)), &run.allowed(), Look::Blocks).map(drop)
}

#[test]
fn a_publication_needs_the_sync_of_its_file_and_of_its_folder() {
    assert_eq!(loss_of_a_publication(|disk| disk), Ok(()));
    let files = loss_of_a_publication(Crashing::with_lying_sync).unwrap_err();
    assert!(files.contains("0 objects instead of 1") || files.contains("records"), "{files}");
    let folders = loss_of_a_publication(Crashing::with_lying_sync_dir).unwrap_err();
    assert!(folders.contains("0 packs for 1 objects"), "{folders}");
}

#[test]
fn a_changed_block_is_found_out() {
    let disk = Crashing::default();
    let mut run = Run::on(arc(disk.clone()), Model::default());
    run.go(&[Step::Publish((1, 1), b"entry".to_vec())]).unwrap();
    run.close();
    let image = disk.image(0);
    let (path, _) = image.files().into_iter().find(|(path, _)| is_pack(path)).unwrap();
    assert!(image.tamper(&path, |bytes| bytes[5000] ^= 1));
    let loss = reopen(&arc(image), &run.allowed(), Look::Blocks).map(drop).unwrap_err();
    assert!(loss.contains("cannot be read"), "{loss}");
}

fn is_pack(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pack")
}
