package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
)

// Supervise runs the machines of one computer until nobody needs it any more: no machine runs and no provider has
// been connected for [SupervisorOptions.Idle], or a newer supervisor has taken over and no machine runs. When ctx
// ends before, every machine is ended. It is the body of the program that [Options.Supervisor] names.
//
// fault.Conflict: the directory has a supervisor already. fault.Invalid: it is not one that a provider has made.
func Supervise(ctx context.Context, o SupervisorOptions) error {
	s, err := newSupervisor(o)
	if err != nil {
		return fmt.Errorf("local: supervisor %s: %w", o.Dir, err)
	}
	defer s.release()
	return s.run(ctx)
}

// tick is how often a supervisor looks after itself, and for machines that were destroyed behind its back.
const tick = time.Second

// supervisor is the process that holds the machines.
type supervisor struct {
	SupervisorOptions
	layout   layout
	number   int
	log      *slog.Logger
	boot     string
	host     string // the computer's name, for people
	program  string
	lock     *os.File
	trees    *process.Host
	slots    *slots
	machines *registry
	path     string // PATH of machines

	listener *net.UnixListener
	inflight chan struct{} // one for each request being carried out
	commands chan struct{} // one for each further command that runs in a machine
	work     sync.WaitGroup

	mu       sync.Mutex
	cells    map[string]*cell  // guarded by mu; by name
	extra    int               // guarded by mu: how many more machines those that are divided count for
	sessions map[*session]bool // guarded by mu
	home     string            // guarded by mu
	renewed  chan struct{}     // guarded by mu: closed when home is named again
	ending   bool              // guarded by mu: nothing new is begun
	busy     time.Time         // guarded by mu: when there was last a session or a running machine
}

// maxInflight bounds the requests that are carried out at once.
const maxInflight = 256

func newSupervisor(o SupervisorOptions) (_ *supervisor, err error) {
	number, err := strconv.Atoi(filepath.Base(o.Dir))
	if err != nil || number <= 0 || filepath.Base(filepath.Dir(o.Dir)) != "supervisors" {
		return nil, fmt.Errorf("%w: not the directory of a supervisor", fault.Invalid)
	}
	s := &supervisor{
		SupervisorOptions: o,
		layout:            layout(filepath.Dir(filepath.Dir(o.Dir))),
		number:            number,
		log:               o.Logger,
		path:              cmp.Or(os.Getenv("PATH"), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
		inflight:          make(chan struct{}, maxInflight),
		commands:          make(chan struct{}, maxCommands),
		cells:             map[string]*cell{},
		sessions:          map[*session]bool{},
		renewed:           make(chan struct{}),
		busy:              time.Now(),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.Idle = cmp.Or(o.Idle, 30*time.Second)
	s.Grace = cmp.Or(o.Grace, 5*time.Second)
	s.MaxMachines = min(cmp.Or(o.MaxMachines, 4096), mostMachines())
	defer func() {
		if err != nil {
			s.release()
		}
	}()
	if s.lock, err = lock(filepath.Join(o.Dir, "lock")); err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Internal, err)
	}
	if s.lock == nil {
		return nil, fmt.Errorf("%w: it runs already", fault.Conflict)
	}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("%w: %w", fault.Internal, err)
	}
	return s, nil
}

const (
	// perMachine is how many descriptors a machine takes at most: the record and the cgroup, which is open twice, and
	// with an agent also two directories and, for each of four files that are sent at once, that and a connection. While
	// a command runs there are its process, two pipes and what is kept of its output instead, which are fewer.
	perMachine = 13
	// perSupervisor is how many a supervisor has besides: 14 of its own, a connection for each provider and to the
	// server, those that are open for a moment while a process is started, and a connection and a process for each
	// further command.
	perSupervisor = 32 + 2*maxCommands
)

// mostMachines is how many machines the limit on open files allows. Beyond it a machine is refused, which the server
// waits out; a machine that found no descriptor would fail.
func mostMachines() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 64
	}
	return int(max(1, (int64(min(limit.Cur, 1<<20))-perSupervisor)/perMachine))
}

// prepare finds out where it is, says so in info.json, and listens.
func (s *supervisor) prepare() (err error) {
	if s.boot, err = bootID(); err != nil {
		return err
	}
	if s.host, err = os.Hostname(); err != nil {
		return err
	}
	if s.program, err = program("/proc/self/exe"); err != nil {
		return err
	}
	if s.machines, err = openRegistry(s.layout); err != nil {
		return err
	}
	prefix, err := s.layout.prefix()
	if err != nil {
		return err
	}
	s.trees, err = process.NewHost(&process.Options{Prefix: prefix, Logger: s.log, DisableCgroups: s.DisableCgroups})
	if err != nil {
		return err
	}
	if s.slots, err = openSlots(s.layout, s.number, s.trees); err != nil {
		return err
	}
	if err := s.writeInfo(); err != nil {
		return err
	}
	s.listener, err = listen(s.Dir)
	return err
}

func (s *supervisor) writeInfo() error {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	// The program's name, the second field, may hold spaces.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	text, err := json.Marshal(info{
		PID:      os.Getpid(),
		Started:  fields[19],
		Boot:     s.boot,
		Protocol: protocolVersion,
		Program:  s.program,
		Kill:     s.trees.Abilities().Kill,
		Places:   s.trees.Places(),
	})
	if err != nil {
		return err
	}
	file := filepath.Join(s.Dir, "info.json")
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// release gives back what newSupervisor took. The lock is last: whoever sees it free may take everything for dead.
func (s *supervisor) release() {
	var err error
	if s.listener != nil {
		s.listener.Close()
	}
	if s.slots != nil {
		err = s.slots.close()
	}
	if s.machines != nil {
		err = errors.Join(err, s.machines.close())
	}
	if s.trees != nil {
		err = errors.Join(err, s.trees.Close())
	}
	if err != nil {
		s.log.Error("something is left at the end", "err", err)
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

func (s *supervisor) run(ctx context.Context) error {
	s.work.Go(s.accept)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			s.end(context.Cause(ctx))
			return nil
		case <-ticker.C:
		}
		s.checkRecords()
		s.trimLog()
		if s.done() {
			s.end(nil)
			return nil
		}
	}
}

// done decides whether the supervisor is of use to anybody, and if not lets nothing new begin.
func (s *supervisor) done() bool {
	superseded := s.superseded()
	s.mu.Lock()
	defer s.mu.Unlock()
	running := false
	for _, c := range s.cells {
		running = running || !c.over()
	}
	if running || len(s.sessions) > 0 && !superseded {
		s.busy = time.Now()
		return false
	}
	if !superseded && time.Since(s.busy) < s.Idle {
		return false
	}
	s.ending = true
	return true
}

// superseded reports whether a newer supervisor runs, or this one's directory is gone so that nobody can find it.
func (s *supervisor) superseded() bool {
	if _, err := os.Stat(s.Dir); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	numbers, err := s.layout.numbers()
	if err != nil {
		return false
	}
	for _, n := range numbers {
		if n <= s.number {
			return false
		}
		if alive, err := s.layout.alive(n); err == nil && alive {
			return true
		}
	}
	return false
}

// end ends every machine and then every connection. A request that comes too late finds the connection closed, and
// its provider asks another supervisor.
func (s *supervisor) end(cause error) {
	s.mu.Lock()
	s.ending = true
	cells := make([]*cell, 0, len(s.cells))
	for _, c := range s.cells {
		cells = append(cells, c)
	}
	s.mu.Unlock()
	for _, c := range cells {
		if <-c.made; c.err == nil {
			c.stop(fmt.Errorf("the supervisor was told to end: %w", cause))
		}
	}
	for _, c := range cells {
		if c.err == nil {
			<-c.ended
		}
	}
	s.listener.Close()
	s.mu.Lock()
	for session := range s.sessions {
		session.conn.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
	for _, c := range cells {
		if c.err != nil {
			continue
		}
		if err := c.slot.close(); err != nil {
			s.log.Error("a machine's process group is left behind", "machine", c.spec.Name, "err", err)
		}
	}
}

// checkRecords looks for machines that somebody else has destroyed, which happens while this process is stopped.
func (s *supervisor) checkRecords() {
	s.mu.Lock()
	cells := make([]*cell, 0, len(s.cells))
	for _, c := range s.cells {
		cells = append(cells, c)
	}
	s.mu.Unlock()
	for _, c := range cells {
		if c.settled() && !c.slot.named() {
			s.log.Info("machine was destroyed by another process", "machine", c.spec.Name)
			s.work.Go(func() { _ = s.destroy(c.spec.Name, c) })
		}
	}
}

// maxLog is the size at which the log that the provider directs standard error to is begun anew.
const maxLog = 1 << 20

func (s *supervisor) trimLog() {
	file := filepath.Join(s.Dir, "log")
	if st, err := os.Stat(file); err == nil && st.Size() > maxLog {
		_ = os.Truncate(file, 0)
	}
}

// changed tells every connected provider of a machine, but for the one that knows already.
func (s *supervisor) changed(news change, knows *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for session := range s.sessions {
		if session != knows {
			session.push(news)
		}
	}
}

// cell returns what is held under a name, or nil.
func (s *supervisor) cell(name string) *cell {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cells[name]
}

func (s *supervisor) currentHome() (url string, renewed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.home, s.renewed
}

func (s *supervisor) setHome(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.home = url
	close(s.renewed)
	s.renewed = make(chan struct{})
}

// listen makes the socket. Its address goes through a descriptor of the directory, because an address may have 107
// bytes and a path 4095.
func listen(dir string) (*net.UnixListener, error) {
	_ = os.Remove(filepath.Join(dir, "sock"))
	var listener *net.UnixListener
	err := throughDescriptor(dir, func(address *net.UnixAddr) (err error) {
		listener, err = net.ListenUnix("unix", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	// The address is only valid while the descriptor is open, so it is not unlinked by name either.
	listener.SetUnlinkOnClose(false)
	return listener, os.Chmod(filepath.Join(dir, "sock"), 0o600)
}

// throughDescriptor calls use with a short address of the socket in a directory.
func throughDescriptor(dir string, use func(*net.UnixAddr) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return use(&net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/sock", fd)})
}

func (s *supervisor) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Error("a connection could not be accepted", "err", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		s.begin(conn)
	}
}
