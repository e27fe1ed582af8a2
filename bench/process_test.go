package main

import (
	"os"
	"testing"
	"time"
)

func TestMemoryIsReadFromAProcessStatus(t *testing.T) {
	t.Parallel()
	const status = "Name:\tdayfly\nVmPeak:\t 1234567 kB\nVmHWM:\t   45678 kB\nVmRSS:\t   34567 kB\nRssAnon:\t   23456 kB\nRssFile:\t   11111 kB\n"
	got, err := parseMemory(status)
	if want := (memory{resident: 34567, peak: 45678, private: 23456}); err != nil || got != want {
		t.Errorf("parseMemory = %+v, %v; want %+v", got, err, want)
	}
	for name, bad := range map[string]string{
		"of a process that has ended": "Name:\tdayfly\nState:\tZ (zombie)\n",
		"with a value that is none":   "VmRSS:\tmuch kB\n",
	} {
		if got, err := parseMemory(bad); err == nil {
			t.Errorf("a status %s gave %+v, want an error", name, got)
		}
	}
}

func TestOwnProcessIsMeasured(t *testing.T) {
	t.Parallel()
	m, err := memoryOf(os.Getpid())
	if err != nil || m.resident < 1024 || m.peak < m.resident/2 {
		t.Errorf("memoryOf this process = %+v, %v", m, err)
	}
	if _, err := memoryOf(-1); err == nil {
		t.Error("memoryOf no process succeeded, want an error")
	}
}

func TestProcessorTimeIsReadFromAProcessStat(t *testing.T) {
	t.Parallel()
	const stat = "42 (a (strange) name) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 7 3 20 0 5 0 12345 1000000 500\n"
	own, children := parseCPU([]byte(stat))
	if own != 2*time.Second || children != 100*time.Millisecond {
		t.Errorf("parseCPU = %v, %v; want 2s, 100ms", own, children)
	}
	if own, children := parseCPU([]byte("42 (gone")); own != 0 || children != 0 {
		t.Errorf("parseCPU of half a line = %v, %v; want nothing", own, children)
	}
}

func TestFlagsChooseWhatIsMeasured(t *testing.T) {
	t.Parallel()
	if list, err := chosen("noop,size"); err != nil || len(list) != 2 || list[0].name != "noop" || list[1].name != "size" {
		t.Errorf("chosen(noop,size) = %v, %v", list, err)
	}
	if _, err := chosen("noop,other"); err == nil {
		t.Error("chosen accepted a measurement that does not exist")
	}
	o, err := parse([]string{"-quick"}, t.Output())
	if err != nil || o.rounds != 1 || o.artifact != 16 {
		t.Errorf("-quick: %+v, %v; want 1 round and 16 MiB", o, err)
	}
	if o, err = parse([]string{"-quick", "-rounds", "4", "-artifact-size", "2"}, t.Output()); err != nil || o.rounds != 4 || o.artifact != 2 {
		t.Errorf("-quick -rounds 4 -artifact-size 2: %+v, %v", o, err)
	}
	for _, bad := range [][]string{{"-rounds", "0"}, {"-artifact-size", "-1"}, {"noop"}, {"-profile", "x", "-dayfly", "y"}} {
		if _, err := parse(bad, t.Output()); err == nil {
			t.Errorf("parse accepted %v", bad)
		}
	}
}
