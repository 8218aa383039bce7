//! Room on the engine's disk, as far as it can be seen from here.
//!
//! The engine tells where its data lies, not how much room is left there. It is looked at only where that directory is on this
//! host and certainly this engine's own: a directory of the same name may be another engine's, or an empty one.

use crate::{connect::Engine, error};
use bollard::{models::SystemInfo, query_parameters::ListContainersOptions};
use rollback_core::{Finding, Result, Severity, atomic_file};
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;

/// With less the engine may make a container and then not be able to start it, or to start the old one again.
const LEAST: u64 = 1 << 20;
/// With less a container that writes, or logs much, may soon fail.
const LITTLE: u64 = 256 << 20;

/// What is left on a disk.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Room {
    /// In bytes, for the engine, which may use what is set aside for root.
    engine: u64,
    /// In bytes, for what runs in containers.
    containers: u64,
    /// None where the file system does not count them.
    inodes: Option<u64>,
}

/// What there is to say of the engine's disk; nothing where there is plenty of room.
pub(crate) async fn finding(engine: &Engine) -> Result<Option<Finding>> {
    let info = engine.client().info().await.map_err(error::read("ask where the engine's data lies"))?;
    let root = match data_root(info) {
        Ok(root) => root,
        Err(why) => return Ok(Some(unknown(&why))),
    };
    let options = ListContainersOptions { all: true, limit: Some(1), ..ListContainersOptions::default() };
    let any = engine.client().list_containers(Some(options)).await.map_err(error::read("list the containers"))?;
    let Some(container) = any.into_iter().find_map(|container| container.id) else {
        return Ok(Some(unknown("it has no container to know its directory by")));
    };
    let seen = seen_from(engine, &root).await;
    let room = atomic_file::blocking(move || Ok(room_of_engine(&seen, &container))).await?;
    Ok(match room {
        Ok(room) => judge(&root, room),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Some(unknown(&format!("this user may not look into {}", root.display())))
        }
        Err(_) => Some(unknown(&format!("its data directory, {}, is not on this host", root.display()))),
    })
}

/// Where images and containers are written; or why that is not known.
fn data_root(info: SystemInfo) -> Result<PathBuf, String> {
    // Then they are where containerd has its own data.
    let with_containerd =
        info.driver_status.iter().flatten().any(|line| line.first().is_some_and(|at| at == "driver-type"));
    let root = info.docker_root_dir.map(PathBuf::from).filter(|dir| dir.is_absolute());
    match root {
        Some(_) if with_containerd => Err("its images are kept by containerd, and it does not say where".into()),
        Some(root) => Ok(root),
        None => Err("it does not say where its data lies".into()),
    }
}

/// Where the directory may be found: as the process that listens sees it, which may have mounts of its own, and as this one
/// does.
async fn seen_from(engine: &Engine, root: &Path) -> Vec<PathBuf> {
    let pid = match engine.host().strip_prefix("unix://") {
        Some(socket) => UnixStream::connect(socket).await.ok().and_then(|socket| socket.peer_cred().ok()?.pid()),
        None => None,
    };
    let inside =
        |pid: i32| Path::new("/proc").join(pid.to_string()).join("root").join(root.strip_prefix("/").unwrap_or(root));
    pid.map(inside).into_iter().chain([root.to_owned()]).collect()
}

/// Of the first that is this engine's: no other has a container by this id.
fn room_of_engine(places: &[PathBuf], container: &str) -> io::Result<Room> {
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for dir in places {
        match dir.join("containers").join(container).symlink_metadata() {
            Ok(_) => {
                let disk = rustix::fs::statvfs(dir)?;
                return Ok(Room {
                    engine: disk.f_bfree.saturating_mul(disk.f_frsize),
                    containers: disk.f_bavail.saturating_mul(disk.f_frsize),
                    inodes: (disk.f_files > 0).then_some(disk.f_ffree),
                });
            }
            // Said rather than that it is not there.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => why = e,
            Err(_) => {}
        }
    }
    Err(why)
}

fn judge(root: &Path, room: Room) -> Option<Finding> {
    let root = root.display();
    let mib = |bytes: u64| bytes >> 20;
    if room.engine < LEAST || room.inodes == Some(0) {
        let what = if room.inodes == Some(0) { "no inode" } else { "not one MiB" };
        let why = format!(
            "{what} is left on the engine's disk ({root}): a container could be stopped, and then none be started; make room"
        );
        return Some(Finding::new(Severity::Blocks, "disk-full", why));
    }
    (room.containers < LITTLE).then(|| {
        let why = format!(
            "{} MiB are left on the engine's disk ({root}): what containers write and log goes there; docker system df shows \
             what takes it",
            mib(room.containers)
        );
        Finding::new(Severity::Warning, "disk-low", why)
    })
}

fn unknown(why: &str) -> Finding {
    let why = format!("how much room the engine's disk has cannot be seen from here: {why}; df on its host shows it");
    Finding::new(Severity::Note, "disk-unknown", why)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_a_warning_and_none_blocks() {
        let room = |engine, containers, inodes| Room { engine, containers, inodes };
        let plenty = 10 << 30;
        for (what, room, code) in [
            ("plenty", room(plenty, plenty, Some(1000)), None),
            ("a file system that counts no inodes", room(plenty, plenty, None), None),
            ("little", room(LITTLE, LITTLE - 1, Some(1000)), Some((Severity::Warning, "disk-low"))),
            ("nothing but for root", room(LITTLE, 0, Some(1000)), Some((Severity::Warning, "disk-low"))),
            ("nothing", room(0, 0, Some(1000)), Some((Severity::Blocks, "disk-full"))),
            ("no inode", room(plenty, plenty, Some(0)), Some((Severity::Blocks, "disk-full"))),
        ] {
            let found = judge(Path::new("/data"), room);
            assert_eq!(found.as_ref().map(|f| (f.severity, f.code.as_str())), code, "{what}");
            assert!(found.is_none_or(|f| f.text.contains("/data")), "{what}");
        }
    }

    #[test]
    fn a_directory_is_the_engine_s_only_if_its_container_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (other, own) = (dir.path().join("other"), dir.path().join("own"));
        std::fs::create_dir_all(other.join("containers/a1")).unwrap();
        std::fs::create_dir_all(own.join("containers/b2")).unwrap();
        let places = [other.clone(), own];
        assert!(room_of_engine(&places, "b2").unwrap().engine > 0);
        assert_eq!(room_of_engine(&[other], "b2").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn where_images_are_kept_elsewhere_nothing_is_known() {
        let info = |driver: &str, root: Option<&str>| SystemInfo {
            driver_status: Some(vec![vec![driver.to_owned(), "x".into()]]),
            docker_root_dir: root.map(str::to_owned),
            ..SystemInfo::default()
        };
        assert_eq!(data_root(info("Backing Filesystem", Some("/data"))), Ok(PathBuf::from("/data")));
        assert!(data_root(info("driver-type", Some("/data"))).unwrap_err().contains("containerd"));
        for none in [None, Some(""), Some("C:\\docker")] {
            assert!(data_root(info("Backing Filesystem", none)).is_err(), "{none:?}");
        }
    }
}
