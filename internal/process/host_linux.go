package process

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Host is what this computer allows: it finds out once which cgroup hierarchies can be used, and it runs the threads
// that start processes. It is safe for concurrent use.
type Host struct {
	prefix string
	log    *slog.Logger
	trees  hierarchies
	places []string // prefix directories of other processes that may hold killable groups of ours
	null   *os.File
	alone  bool
	brake  int          // how many processes and threads all groups may have together
	made   atomic.Int64 // how many groups were made

	starting sync.Once      // the threads are started with the first process
	requests chan *spawning // to the threads; closed by Close
	untagged sync.Once      // said why processes get no tag
	threads  sync.WaitGroup // the threads, until they are back where this program is

	mu     sync.Mutex
	live   int  // guarded by mu; processes that were started and have not ended
	closed bool // guarded by mu
}

// NewHost finds out what this computer allows. It changes nothing but the controllers that are passed on to the
// children of a cgroup; groups make their directories when they are made.
func NewHost(o *Options) (*Host, error) {
	if o == nil {
		o = &Options{}
	}
	h := &Host{prefix: o.Prefix, log: o.Logger, brake: o.Brake, alone: o.Alone, requests: make(chan *spawning)}
	if h.brake <= 0 {
		h.brake = defaultBrake()
	}
	if h.prefix == "" {
		h.prefix = "dayfly"
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if strings.ContainsAny(h.prefix, "/\x00\n") {
		return nil, fmt.Errorf("process: %w: the prefix %q is not a file name", fault.Invalid, h.prefix)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("process: %w: %w", fault.Internal, err)
	}
	h.null = null
	if o.DisableCgroups {
		h.trees.why = []string{"Cgroups are switched off: process trees are found by searching /proc."}
		return h, nil
	}
	h.trees = discover(h.prefix)
	for _, place := range o.Places {
		if !slices.Contains(h.Places(), place) {
			h.places = append(h.places, place)
		}
	}
	for _, why := range h.trees.why {
		h.log.Debug("host is limited", "why", why)
	}
	return h, nil
}

// Abilities says what this host can do.
func (h *Host) Abilities() Abilities {
	a := Abilities{Kill: "scan", Why: slices.Clone(h.trees.why)}
	if h.trees.kill != nil {
		a.Kill = fmt.Sprintf("cgroup%d", h.trees.kill.version)
	}
	a.Memory = h.trees.limits["memory"] != nil
	a.CPU = h.trees.limits["cpu"] != nil
	a.Processes = h.trees.limits["pids"] != nil
	return a
}

// Places returns the cgroup directories that this host's groups live under. Keep them with whatever remembers the
// groups, for [Options.Places] of a process that ends them later.
func (h *Host) Places() []string {
	var places []string
	for _, t := range h.trees.all() {
		places = append(places, t.dir)
	}
	return places
}

// Close ends the threads that start processes. It fails with fault.Conflict while a process that this host started
// has not ended, because the kernel kills such a process when its thread ends. It may be repeated.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.live > 0 {
		return fmt.Errorf("process: %w: %d processes of this host still run", fault.Conflict, h.live)
	}
	if h.closed {
		return nil
	}
	h.closed = true
	close(h.requests)
	h.threads.Wait()
	for _, t := range h.trees.all() {
		// Other groups, or another host of this prefix, may still use the directory; then it stays.
		_ = os.Remove(t.dir)
	}
	return h.null.Close()
}

// Group returns the group of that name, which is one process tree, and makes it if there is none: an existing group
// of that name, also one that another process made, is opened again. The size's limits are set where the host can,
// fault.Unavailable or fault.Internal when the kernel refuses. The name is a file name.
func (h *Host) Group(name string, size machine.Size) (*Group, error) {
	g, err := h.newGroup(name)
	if err != nil {
		return nil, err
	}
	g.size = size
	h.made.Add(1)
	g.kills.Store(h.killedSoFar())
	if err := g.make(); err != nil {
		_ = g.Close()
		return nil, fmt.Errorf("process: group %s: %w: %w", name, fault.Unavailable, err)
	}
	return g, nil
}

// Find returns the group of that name if it exists, and nil if it certainly does not. Where there are no cgroups
// nothing tells whether a group exists, and one is always returned. What it returns is for Signal, Kill, Empty and
// Close; the group may be in one of [Options.Places].
func (h *Host) Find(name string) (*Group, error) {
	g, err := h.newGroup(name)
	if err != nil {
		return nil, err
	}
	if h.trees.kill == nil && len(h.places) == 0 {
		return g, nil
	}
	if err := g.open(); err != nil {
		return nil, fmt.Errorf("process: group %s: %w: %w", name, fault.Unavailable, err)
	}
	if len(g.dirs) == 0 && h.trees.kill != nil {
		return nil, nil
	}
	return g, nil
}

func (h *Host) newGroup(name string) (*Group, error) {
	if name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00\n") {
		return nil, fmt.Errorf("process: %w: group name %q is not a file name", fault.Invalid, name)
	}
	return &Group{host: h, name: name, fd: -1, events: -1}, nil
}

// Names returns the names of the groups that exist on this host under its prefix, sorted, for sweeping. Where there are
// no cgroups, a group whose every process has wiped its environment is among them only if its name is one of the known.
func (h *Host) Names(known ...string) ([]string, error) {
	if h.trees.kill == nil && len(h.places) == 0 {
		groups := make([]*Group, len(known))
		for i, name := range known {
			groups[i] = &Group{host: h, name: name}
		}
		return livingGroups(h.prefix, groups)
	}
	found := map[string]bool{}
	for _, dir := range append(h.Places(), h.places...) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("process: %w: %w", fault.Unavailable, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				found[e.Name()] = true
			}
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// Share returns what one of so many groups that run at once may have of all that this program sees of the computer, as far
// as this host can hold a group to it. Processors are shared as they are needed.
func (h *Host) Share(groups int) machine.Size {
	var size machine.Size
	if h.trees.limits["memory"] != nil {
		size.MemoryMB = share(visibleMemoryMB(), groups)
	}
	if h.trees.limits["pids"] != nil {
		size.Processes = share(h.brake, groups)
	}
	return size
}

// visibleMemoryMB returns how much memory this program sees: that of the computer, or that of its container, or 0 if nobody
// knows.
func visibleMemoryMB() int {
	var kilobytes uint64
	text, err := readFile("/proc/meminfo")
	if err == nil {
		_, err = fmt.Sscanf(string(text), "MemTotal: %d kB", &kilobytes)
	}
	if err != nil {
		return 0
	}
	bytes := kilobytes << 10
	for _, file := range []string{"/memory.max", "/memory/memory.limit_in_bytes"} {
		text, _ := readFile(cgroupRoot + file) // the root of a computer has none, and one without a limit says "max"
		if limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			bytes = min(bytes, limit)
		}
	}
	return int(bytes >> 20)
}

// killedSoFar returns how many processes the kernel has killed for want of memory in a lone host's view, and 0 for any other.
func (h *Host) killedSoFar() int64 {
	if !h.alone {
		return 0
	}
	return int64(KilledForMemory())
}

// began and ended count the processes that live, which must outlive neither the host nor its threads.
func (h *Host) began() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("process: %w: the host is closed", fault.Conflict)
	}
	h.live++
	return nil
}

func (h *Host) ended() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live--
}
