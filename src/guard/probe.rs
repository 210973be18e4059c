//! Which means of killing this host allows, tried out rather than guessed: for `rekindle doctor`.

use super::cgroup::Cgroup;
use super::means::Means;
use super::spawn;

/// Every means, and why not where this host does not allow it. Run it in the place the engine runs in
/// (its unit, its container): another one's answers are another's.
pub fn available_means() -> Vec<(Means, Result<(), String>)> {
    Means::ALL.into_iter().map(|means| (means, probe(means))).collect()
}

fn probe(means: Means) -> Result<(), String> {
    match means {
        Means::Cgroup => {
            // A name of its own: the trial must not touch the group of an engine that runs here.
            let group = Cgroup::create(&format!("probe-{}", std::process::id()))?;
            group.remove();
            Ok(())
        }
        Means::PidNamespace => spawn::try_namespace().map_err(|e| {
            format!("a PID namespace with its own /proc cannot be made ({e}); it takes root or user namespaces")
        }),
        Means::ProcessTree => match std::fs::read_link("/proc/self") {
            Ok(own) if own.to_str() == Some(&std::process::id().to_string()) => Ok(()),
            _ => Err("/proc is not mounted or shows the processes of another PID namespace".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_means_is_reported_and_the_tree_always_works() {
        let all = available_means();
        assert_eq!(all.iter().map(|(m, _)| *m).collect::<Vec<_>>(), Means::ALL);
        assert_eq!(all[2].1, Ok(()));
        for (means, result) in &all {
            println!("{means}: {result:?}");
            assert!(result.as_ref().err().is_none_or(|why| why.len() > 20), "{means} needs a reason in words");
        }
    }
}
