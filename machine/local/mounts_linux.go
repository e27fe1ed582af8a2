package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// detachMounts detaches what is mounted at a path or below it. A job that may mount, which is one of root's, can leave
// such; whoever removed the directory then would remove files that are kept elsewhere.
//
// It costs a reading of the kernel's list of mounts, some tens of microseconds, and so is asked only where directories
// are removed or emptied, not where those of a machine that is gone, which hold next to nothing, are used again.
func detachMounts(path string) error {
	// The kernel lists paths without links; the last element must not be followed, as a job may have made it one.
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	path = filepath.Join(parent, filepath.Base(path))
	for {
		list, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		points := mountPoints(list, path)
		if len(points) == 0 {
			return nil
		}
		for _, point := range points {
			if failed := detachMount(point); failed != nil {
				err = errors.Join(err, fmt.Errorf("what is mounted at %q cannot be detached, so nothing is removed there; unmount it by hand: %w", point, failed))
			}
		}
		if err != nil {
			return err
		}
		// What was covered by it appears now.
	}
}

// detachMount detaches one mount and all below it. They are made private before: of a tree that was bound with all that
// is mounted in it, the kernel would otherwise detach the original mounts as well.
func detachMount(point string) error {
	if err := unix.Mount("", point, "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
}

// mountPoints returns the places at or below a path that a list in the form of /proc/self/mountinfo names, but none that
// is below another: it goes with that, and its path may then lead elsewhere.
func mountPoints(list []byte, path string) []string {
	var points []string
	for line := range bytes.Lines(list) {
		fields := bytes.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if point := unescape(string(fields[4])); point == path || isBelow(point, path) {
			points = append(points, point)
		}
	}
	// What is below a place follows it at once.
	slices.SortFunc(points, func(a, b string) int {
		return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
	})
	var top []string
	for _, point := range points {
		if last := len(top) - 1; last < 0 || point != top[last] && !isBelow(point, top[last]) {
			top = append(top, point)
		}
	}
	return top
}

func isBelow(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }

// unescape replaces what the kernel writes for white space and backslashes in a path: three octal digits.
func unescape(text string) string {
	var plain []byte
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				plain = append(plain, byte(code))
				i += 3
				continue
			}
		}
		plain = append(plain, text[i])
	}
	return string(plain)
}
