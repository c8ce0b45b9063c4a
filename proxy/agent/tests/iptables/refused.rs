// SPDX-License-Identifier: Apache-2.0
//! Services whose rules are refused, those with affinity: by iptables, on a node that lacks its extension `recent`; and by
//! the kernel, which is asked for more hits than xt_recent counts.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use berth_model::{IpFamily, ServiceKey, SessionAffinity};
use berth_proxy_agent::Error;
use berth_proxy_agent::iptables::{Iptables, Variant, Whose, remove};
use berth_proxy_agent::sync::Syncer;
use berth_testkit::in_sandbox_async;

use crate::cluster::{Cluster, settings};
use crate::ground::{VARIANTS, path, program, save};

/// Where iptables has its extensions.
fn extensions() -> anyhow::Result<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")];
    folders.extend(fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path()));
    let mut folders = folders.into_iter().map(|folder| folder.join("xtables"));
    folders
        .find(|folder| folder.is_dir())
        .context("extensions of iptables")
}

/// A PATH whose iptables-restore is this shell script, with `NAME` for the real one.
fn mk_scripts(folder: &Path, script: &str) -> anyhow::Result<OsString> {
    for variant in VARIANTS {
        for family in IpFamily::ALL {
            let name = program(variant, family, "-restore");
            let path = path();
            let text = format!("#!/bin/sh\nPATH={}\n{script}\n", path.display());
            let file = folder.join(&name);
            fs::write(&file, text.replace("NAME", &name))?;
            fs::set_permissions(&file, PermissionsExt::from_mode(0o755))?;
        }
    }
    let mut folders = vec![folder.to_owned()];
    folders.extend(std::env::split_paths(&path()));
    Ok(std::env::join_paths(folders)?)
}

/// The kernel refuses what remembers clients. `word` is what the program calls a line.
fn mk_kernel_path(folder: &Path, word: &str) -> anyhow::Result<OsString> {
    // 65,535 is the most that struct xt_recent_mtinfo's check lets pass (XT_RECENT_MAX_NSTAMPS in Linux's xt_recent.c).
    let script = "sed 's/ --seconds 600/& --hitcount 70000/' > FOLDER/$$.in\n\
                  NAME \"$@\" < FOLDER/$$.in 2> FOLDER/$$.err\n\
                  status=$?\n\
                  sed 's/line/WORD/g' FOLDER/$$.err >&2\n\
                  exit $status";
    let folder_name = folder.display().to_string();
    mk_scripts(
        folder,
        &script.replace("FOLDER", &folder_name).replace("WORD", word),
    )
}

/// A PATH whose iptables-restore lacks `recent`.
fn mk_path(folder: &Path) -> anyhow::Result<OsString> {
    let library = folder.join("xtables");
    fs::create_dir(&library)?;
    for entry in fs::read_dir(extensions()?)? {
        let (name, file) = (
            entry.as_ref().map(fs::DirEntry::file_name),
            entry.as_ref().map(fs::DirEntry::path),
        );
        let (name, file) = (name.ok().context("a name")?, file.ok().context("a file")?);
        if !name.to_string_lossy().contains("recent") {
            symlink(file, library.join(name))?;
        }
    }
    let library = library.display();
    mk_scripts(folder, &format!("XTABLES_LIBDIR={library} exec NAME \"$@\""))
}

fn key(n: u16) -> ServiceKey {
    ServiceKey::new("shop", format!("s{n}"))
}

/// The Services that packets are led to.
fn served(variant: Variant) -> anyhow::Result<Vec<u16>> {
    let listed = save(variant, IpFamily::V4)?;
    let is_led = |n: &u16| {
        let to = format!("-A KUBE-SERVICES -d 10.96.0.{n}/32 -p tcp");
        listed
            .lines()
            .any(|line| line.starts_with(&to) && line.contains("-j KUBE-SVC-"))
    };
    Ok((1..10).filter(is_led).collect())
}

fn refused(syncer: &Syncer<Iptables>) -> Vec<ServiceKey> {
    syncer.refused().keys().cloned().collect()
}

fn stick(cluster: &mut Cluster, n: u16) {
    cluster.edit(n, |service, _| {
        service.affinity = SessionAffinity::ClientIp { timeout_seconds: 600 };
    });
}

#[test]
fn one_whose_rules_are_refused_is_left_out_and_the_others_are_served() {
    in_sandbox_async!(async {
        let folder = tempfile::tempdir()?;
        let lacking = mk_path(folder.path())?;
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = Syncer::new(Iptables::open(&lacking, variant)?, settings());
            for n in 1..=4 {
                cluster.set(n, Some(&[11, 12]));
            }
            stick(&mut cluster, 2);
            cluster.sync(&mut syncer).await?;
            ensure!(refused(&syncer) == [key(2)], "{variant}: {:?}", syncer.refused());
            let why = &syncer.refused()[&key(2)];
            ensure!(
                why.contains("recent") && why.contains("shop/s2"),
                "{variant}: {why}"
            );
            ensure!(served(variant)? == [1, 3, 4], "{variant}: {:?}", served(variant)?);
            ensure!(syncer.next_wake().is_some(), "{variant}: nobody tries again");

            // Others come meanwhile.
            cluster.set(5, Some(&[11])).sync(&mut syncer).await?;
            ensure!(refused(&syncer) == [key(2)], "{variant}");
            ensure!(served(variant)? == [1, 3, 4, 5], "{variant}");

            // What changes about it is a reason to try.
            cluster.set(2, Some(&[11, 12])).sync(&mut syncer).await?;
            ensure!(refused(&syncer).is_empty(), "{variant}: {:?}", syncer.refused());
            ensure!(served(variant)? == [1, 2, 3, 4, 5], "{variant}");
            let whole = save(variant, IpFamily::V4)?;

            // What worked goes on working when the next step is refused.
            stick(&mut cluster, 2);
            let error = cluster.sync(&mut syncer).await.err().context("refused")?;
            ensure!(
                matches!(error.downcast_ref(), Some(Error::Refused { .. })),
                "{error}"
            );
            syncer.turn().await?;
            ensure!(refused(&syncer) == [key(2)], "{variant}");
            let counted = syncer.backend().counts();
            let counted = counted.map(|(_, counts)| (counts.refused, counts.refused_changes));
            // At the start; the change, and what came of reading everything.
            ensure!(counted.eq([(3, 1), (3, 1)]), "{variant}");
            ensure!(save(variant, IpFamily::V4)? == whole, "{variant}");
            ensure!(
                syncer.turn().await?.is_nothing(),
                "{variant}: tried again already"
            );

            cluster.set(2, None).sync(&mut syncer).await?;
            ensure!(
                refused(&syncer).is_empty() && syncer.next_wake().is_none(),
                "{variant}"
            );
            ensure!(served(variant)? == [1, 3, 4, 5], "{variant}");
            let mut restarted = Syncer::new(Iptables::open(&path(), variant)?, settings());
            restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
            ensure!(
                restarted.turn().await?.is_nothing(),
                "{variant}: something was left behind"
            );
            remove(&path(), Whose::Ours).await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn where_all_are_refused_it_is_nobodys_fault() {
    in_sandbox_async!(async {
        let folder = tempfile::tempdir()?;
        let lacking = mk_path(folder.path())?;
        for variant in VARIANTS {
            let mut cluster = Cluster::new();
            let mut syncer = Syncer::new(Iptables::open(&lacking, variant)?, settings());
            cluster.set(1, Some(&[11])).set(2, Some(&[12]));
            stick(&mut cluster, 1);
            stick(&mut cluster, 2);
            let error = cluster.sync(&mut syncer).await;
            ensure!(
                error.is_err() && syncer.refused().is_empty(),
                "{variant}: {error:?}"
            );
        }
        anyhow::Ok(())
    });
}

/// How often each family was refused something.
fn refusals(syncer: &Syncer<Iptables>) -> Vec<u64> {
    syncer
        .backend()
        .counts()
        .map(|(_, counts)| counts.refused)
        .collect()
}

#[test]
fn those_that_the_kernel_refuses_are_found_whether_or_not_a_line_is_named() {
    in_sandbox_async!(async {
        // The nft variant names all lines that the kernel refuses, the legacy one only COMMIT.
        for (variant, word, at_first) in [
            (Variant::Nft, "line", 1),
            (Variant::Nft, "somewhere", 5),
            (Variant::Legacy, "line", 5),
        ] {
            let folder = tempfile::tempdir()?;
            let case = format!("{variant}, {word}");
            let refusing = mk_kernel_path(folder.path(), word)?;
            let mut cluster = Cluster::new();
            let mut syncer = Syncer::new(Iptables::open(&refusing, variant)?, settings());
            for n in 1..=8 {
                cluster.set(n, Some(&[11, 12]));
            }
            stick(&mut cluster, 3);
            stick(&mut cluster, 6);
            cluster.sync(&mut syncer).await?;
            ensure!(
                refused(&syncer) == [key(3), key(6)],
                "{case}: {:?}",
                syncer.refused()
            );
            ensure!(
                served(variant)? == [1, 2, 4, 5, 7, 8],
                "{case}: {:?}",
                served(variant)?
            );
            ensure!(
                refusals(&syncer) == [at_first; 2],
                "{case}: {:?}",
                refusals(&syncer)
            );
            ensure!(syncer.turn().await?.is_nothing(), "{case}: tried again already");

            // One more, among others that change at the same time.
            stick(&mut cluster, 8);
            cluster.set(2, None).set(9, Some(&[12]));
            ensure!(cluster.sync(&mut syncer).await.is_err(), "{case}");
            syncer.turn().await?;
            let all = [key(3), key(6), key(8)];
            ensure!(refused(&syncer) == all, "{case}: {:?}", syncer.refused());
            // What Service 8 had before goes on working.
            ensure!(
                served(variant)? == [1, 4, 5, 7, 8, 9],
                "{case}: {:?}",
                served(variant)?
            );

            for n in [3, 6, 8] {
                cluster.set(n, Some(&[11, 12]));
            }
            cluster.sync(&mut syncer).await?;
            ensure!(refused(&syncer).is_empty(), "{case}: {:?}", syncer.refused());
            ensure!(served(variant)? == [1, 3, 4, 5, 6, 7, 8, 9], "{case}");
            let mut restarted = Syncer::new(Iptables::open(&path(), variant)?, settings());
            restarted.take(&cluster.view, &cluster.view.services.keys().cloned().collect());
            ensure!(
                restarted.turn().await?.is_nothing(),
                "{case}: not as it should be"
            );
            remove(&path(), Whose::Ours).await?;
        }
        anyhow::Ok(())
    });
}

#[test]
fn what_is_refused_whatever_service_is_left_out_is_nobodys_fault() {
    in_sandbox_async!(async {
        for variant in VARIANTS {
            let folder = tempfile::tempdir()?;
            // A line of no Service's, that iptables refuses without naming it.
            let script = "cat > /dev/null; echo 'no memory' >&2; exit 1";
            let refusing = mk_scripts(folder.path(), script)?;
            let mut cluster = Cluster::new();
            let mut syncer = Syncer::new(Iptables::open(&refusing, variant)?, settings());
            for n in 1..=8 {
                cluster.set(n, Some(&[11]));
            }
            let error = cluster.sync(&mut syncer).await;
            ensure!(
                error.is_err() && syncer.refused().is_empty(),
                "{variant}: {error:?}"
            );
            // All of them, and all but them: more is not tried.
            ensure!(refusals(&syncer) == [2; 2], "{variant}: {:?}", refusals(&syncer));
        }
        anyhow::Ok(())
    });
}
