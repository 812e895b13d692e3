//! The process: the memory that it has, and may have, as the system tells it, and its user.

pub mod user;

use std::fs::read_to_string;
use std::path::Path;

/// Bytes of memory that the process uses (its resident set). `None` where the system does not say.
pub fn memory_used() -> Option<usize> {
    let pages = resident_pages(&read_to_string("/proc/self/statm").ok()?)?;
    pages.checked_mul(rustix::param::page_size())
}

/// Has the allocator return to the system what was freed a second ago or more. It does so when a
/// large block is freed, and only then: where nothing is allocated any more nothing would return.
pub fn return_memory() {
    const LARGE: usize = 16 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}

/// After the pages of its whole address space, and before others.
fn resident_pages(statm: &str) -> Option<usize> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes that the process may have: what the machine has, or its control group. `None` where the
/// system does not say.
pub fn memory_total() -> Option<usize> {
    let machine = machine_total(&read_to_string("/proc/meminfo").ok()?)?;
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    Some(group_limits(root, &groups).fold(machine, usize::min))
}

fn machine_total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The limits of the control groups that `groups` (/proc/self/cgroup) names, and of those around
/// them: version 2, and the older one with a tree for each resource.
fn group_limits(root: &Path, groups: &str) -> impl Iterator<Item = usize> {
    groups.lines().flat_map(move |line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (resources, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (tree, file) = match resources {
            "" => (root.to_owned(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => (root.to_owned(), ""),
        };
        let group = tree.join(path.trim_start_matches('/'));
        let within = group.ancestors().take_while(|group| group.starts_with(&tree));
        let limit = |group: &Path| read_to_string(group.join(file)).ok()?.trim().parse().ok();
        let limits: Vec<usize> = match file {
            "" => Vec::new(),
            _ => within.filter_map(limit).collect(),
        };
        limits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        assert_eq!(resident_pages("900 500 120 3 0 400 0\n"), Some(500));
        assert_eq!(resident_pages("900\n"), None);
        assert_eq!(machine_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2 << 20));
        assert_eq!(machine_total("MemTotal: much\n"), None);
        let (used, total) = (memory_used().unwrap(), memory_total().unwrap());
        assert!(used > 0 && used < total, "{used} of {total}");
    }

    #[test]
    fn the_limits_of_all_groups_around_the_process_count() {
        let root = tempfile::TempDir::new().unwrap();
        let group = root.path().join("a/b");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::write(group.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.path().join("a/memory.max"), "4096\n").unwrap();
        let old = root.path().join("memory/c");
        std::fs::create_dir_all(&old).unwrap();
        std::fs::write(old.join("memory.limit_in_bytes"), "8192\n").unwrap();
        let groups = "9:cpu:/a\n5:memory:/c\n0::/a/b\n";
        let limits: Vec<_> = group_limits(root.path(), groups).collect();
        assert_eq!(limits, [8192, 4096]);
    }
}
