package pid1

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Kill ends every process that has the entry, VARIABLE=VALUE, in its environment, this one and the first aside, and returns
// when it has found none twice, or gives up: what it finds may be forking meanwhile.
func Kill(entry string) {
	for clear, tries := 0, 0; clear < 2 && tries < 100; tries++ {
		pids := marked("/proc", entry)
		if len(pids) == 0 {
			clear++
			continue
		}
		clear = 0
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

// marked returns the processes, this one aside, whose environment holds the entry.
func marked(proc, entry string) []int {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "environ"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil || pid == os.Getpid() || pid == 1 {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended, or is somebody else's
		}
		for _, one := range bytes.Split(text, []byte{0}) {
			if string(one) == entry {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
