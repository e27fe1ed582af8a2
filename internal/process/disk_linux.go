package process

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A tree with a disk limit is measured this often; a tree of many files less often, so that measuring costs at most a
// twentieth of one processor.
const (
	measureInterval = 500 * time.Millisecond
	measureShare    = 20
)

// A file system with less than this left counts as full: a program that failed to write has seldom used up the very
// last byte.
const nearlyFull = 1 << 20

// diskDirs returns the directories that count against the limit.
func (g *Group) diskDirs(dir string) []string {
	g.started.Lock()
	defer g.started.Unlock()
	if g.measured != nil {
		return slices.Clone(g.measured)
	}
	return []string{dir}
}

// watchDisk kills the tree when it has written more than its size allows, as long as p runs. RLIMIT_FSIZE, which every
// process has, holds for each file alone.
func (g *Group) watchDisk(p *Process) {
	limit := int64(g.size.DiskMB) << 20
	for wait := measureInterval; ; {
		select {
		case <-p.done:
			return
		case <-time.After(wait):
		}
		begin := time.Now()
		if usage(g.diskDirs(p.dir), limit) > limit {
			g.overDisk.Store(true)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			err := g.Kill(ctx)
			cancel()
			if err == nil {
				return
			}
			g.host.log.Error("a machine over its disk limit cannot be killed", "machine", g.name, "err", err)
		}
		wait = max(measureInterval, measureShare*time.Since(begin))
	}
}

// diskFull reports whether the disk can be the reason for a failure: the tree has used its share, or the file system
// under dir has no blocks or no inodes left.
func (g *Group) diskFull(dir string) bool {
	if g.overDisk.Load() {
		return true
	}
	if limit := int64(g.size.DiskMB) << 20; limit > 0 && usage(g.diskDirs(dir), limit) >= limit {
		return true
	}
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return false
	}
	free := st.Bavail
	if os.Geteuid() == 0 {
		free = st.Bfree // Root may use the reserve.
	}
	return free*uint64(st.Bsize) < nearlyFull || st.Files > 0 && st.Ffree == 0
}

// usage adds up the blocks under the directories, in bytes, and stops as soon as the sum is over enough. A file with
// several names counts once; what vanishes meanwhile does not count; links are not followed.
func usage(dirs []string, enough int64) int64 {
	var sum int64
	linked := map[uint64]bool{}
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return nil
			}
			st, ok := info.Sys().(*syscall.Stat_t)
			if !ok || st.Nlink > 1 && !d.IsDir() && linked[st.Ino] {
				return nil
			}
			if st.Nlink > 1 && !d.IsDir() {
				linked[st.Ino] = true
			}
			if sum += st.Blocks * 512; sum > enough {
				return filepath.SkipAll
			}
			return nil
		})
	}
	return sum
}
