package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/fault"
)

// ready returns the newest supervisor that answers, and starts one if there is none.
func (p *Provider) ready(ctx context.Context) (*link, error) {
	if k := p.usable(); k != nil {
		return k, nil
	}
	// One caller looks, the others wait for what it finds.
	select {
	case p.choosing <- struct{}{}:
		defer func() { <-p.choosing }()
	case <-ctx.Done():
		return nil, canceled(context.Cause(ctx))
	}
	if k := p.usable(); k != nil {
		return k, nil
	}
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	if k := p.usable(); k != nil {
		return k, nil
	}
	return p.start(ctx)
}

// usable returns the newest connected supervisor that takes new machines, or nil.
func (p *Provider) usable() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var newest *link
	for _, k := range p.links {
		if k.usable(p.program) && (newest == nil || k.number > newest.number) {
			newest = k
		}
	}
	return newest
}

// connect connects to every supervisor that lives and is not connected to yet. One that cannot be reached is no
// error: it may be about to end.
func (p *Provider) connect(ctx context.Context) error {
	numbers, err := p.layout.numbers()
	if err != nil {
		return unavailable(err)
	}
	for _, number := range numbers {
		if alive, err := p.layout.alive(number); err != nil {
			return unavailable(err)
		} else if alive {
			if _, err := p.link(ctx, number); err != nil && ctx.Err() != nil {
				return canceled(context.Cause(ctx))
			} else if err != nil {
				p.log.Debug("supervisor cannot be connected to", "supervisor", number, "err", err)
			}
		}
	}
	return nil
}

// connectSoon connects without anybody waiting for it, unless somebody is doing so already.
func (p *Provider) connectSoon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.connecting {
		return
	}
	p.connecting = true
	p.work.Go(func() {
		if err := p.connect(p.life); err != nil && p.life.Err() == nil {
			p.log.Warn("supervisors cannot be connected to", "err", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.connecting = false
	})
}

// link returns the connection to a supervisor and makes it if there is none.
func (p *Provider) link(ctx context.Context, number int) (*link, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("local: %w: the provider is closed", fault.Unavailable)
	}
	if k := p.links[number]; k != nil && !closed(k.broken) {
		p.mu.Unlock()
		return k, nil
	}
	p.mu.Unlock()
	k, err := dial(ctx, p.layout, number, p.AnswerTimeout, p.changed)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	if other := p.links[number]; p.closed || other != nil && !closed(other.broken) {
		p.mu.Unlock()
		k.close()
		return p.link(ctx, number)
	}
	p.links[number] = k
	home := p.home
	p.work.Go(func() { p.attend(k) })
	p.mu.Unlock()
	if home != "" {
		_ = k.send(&request{Home: &home})
	}
	return k, nil
}

// attend waits until a connection ends, and buries the supervisor if that is because it has died.
func (p *Provider) attend(k *link) {
	<-k.broken
	p.mu.Lock()
	if p.links[k.number] == k {
		delete(p.links, k.number)
	}
	over := p.closed
	p.mu.Unlock()
	if over {
		return
	}
	// The lock of a dying process is released a moment after its connections.
	for range 50 {
		alive, err := p.layout.alive(k.number)
		if err == nil && !alive {
			if err := p.bury(p.life, k.number); err != nil && p.life.Err() == nil {
				p.log.Error("machines of a dead supervisor may be left", "supervisor", k.number, "err", err)
			}
			return
		}
		select {
		case <-p.life.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// start starts a supervisor. Among processes that share the directory one starts and the others wait for it.
func (p *Provider) start(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.StartTimeout, errNoAnswer)
	defer cancel()
	file, err := p.awaitLock(ctx, p.layout.starting())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := p.connect(ctx); err != nil {
		return nil, err
	}
	if k := p.usable(); k != nil {
		return k, nil
	}
	program, err := p.lookAtProgram()
	if err != nil {
		return nil, fmt.Errorf("local: the supervisor's program: %w: %w", fault.Unavailable, err)
	}
	// Of the program that is there now, another process may have started one.
	if k := p.usable(); k != nil {
		return k, nil
	}
	number, err := p.nextNumber()
	if err != nil {
		return nil, unavailable(err)
	}
	child, err := p.launch(number)
	if err != nil {
		return nil, fmt.Errorf("local: supervisor %d cannot be started: %w: %w", number, fault.Unavailable, err)
	}
	p.log.Info("supervisor started", "supervisor", number, "pid", child.pid)
	return p.awaitAnswer(ctx, number, child, program)
}

// awaitLock takes the lock on a file as soon as it is free.
func (p *Provider) awaitLock(ctx context.Context, path string) (*os.File, error) {
	for {
		file, err := lock(path)
		if err != nil {
			return nil, unavailable(err)
		}
		if file != nil {
			return file, nil
		}
		select {
		case <-ctx.Done():
			return nil, canceled(context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// nextNumber makes the directory of a new supervisor. Its number is the highest there ever was, as far as anything
// still tells of it, plus one.
func (p *Provider) nextNumber() (int, error) {
	numbers, err := p.layout.numbers()
	if err != nil {
		return 0, err
	}
	number := 1
	if len(numbers) > 0 {
		number = numbers[0] + 1
	}
	return number, os.Mkdir(p.layout.supervisor(number), 0o700)
}

// child is a supervisor that this process has started and has not waited for yet.
type child struct {
	pid    int
	number int
	ended  bool // guarded by the provider's mu
}

// launch starts the program in a session of its own, with nothing of this process but what it needs to find programs,
// certificates and proxies.
func (p *Provider) launch(number int) (*child, error) {
	dir := p.layout.supervisor(number)
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	argv := append(slices.Clone(p.Supervisor), "--dir", dir)
	// A pipe that this process has inherited would otherwise stay open as long as the supervisor, and whoever reads its
	// other end would wait for that.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		p.log.Warn("a supervisor may inherit descriptors", "supervisor", number, "err", err)
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   supervisorEnvironment(),
		Files: []uintptr{null.Fd(), null.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, number: number}
	p.mu.Lock()
	p.children = append(p.children, c)
	p.mu.Unlock()
	return c, nil
}

// supervisorEnvironment is what a supervisor is given of this process's environment. Its machines get none of it but
// PATH.
func supervisorEnvironment() []string {
	names := []string{
		"PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR",
		"SSL_CERT_FILE", "SSL_CERT_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"GODEBUG", "GOMAXPROCS", "GOMEMLIMIT", "GOGC", "GOTRACEBACK", "GORACE", "GOCOVERDIR",
		"DAYFLY_FAILPOINTS",
	}
	var env []string
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// reap waits for the supervisors that have ended, without waiting for those that have not.
func (p *Provider) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.children = slices.DeleteFunc(p.children, func(c *child) bool {
		pid, err := syscall.Wait4(c.pid, nil, syscall.WNOHANG, nil)
		c.ended = pid == c.pid || err != nil && err != syscall.EINTR
		return c.ended
	})
}

// awaitAnswer waits until a new supervisor says hello, or ends.
func (p *Provider) awaitAnswer(ctx context.Context, number int, c *child, program string) (*link, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		k, err := p.link(ctx, number)
		if err == nil && k.another(program) {
			// The file may have been replaced between looking at it and starting it.
			if now, err := p.lookAtProgram(); err == nil {
				program = now
			}
		}
		if err == nil && k.usable(program) {
			return k, nil
		}
		if err == nil && k.another(program) {
			return nil, fmt.Errorf("local: %w: supervisor %d is not the program that was started: %+v", fault.Internal, number, k.greeting)
		}
		p.reap()
		p.mu.Lock()
		ended := c.ended
		p.mu.Unlock()
		if ended {
			return nil, fmt.Errorf("local: %w: supervisor %d has ended at once: %s", fault.Unavailable, number, p.lastWords(number))
		}
		select {
		case <-ctx.Done():
			return nil, canceled(context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// lastWords returns the end of a supervisor's log.
func (p *Provider) lastWords(number int) string {
	text, err := os.ReadFile(filepath.Join(p.layout.supervisor(number), "log"))
	if err != nil {
		return err.Error()
	}
	text = text[max(0, len(text)-500):]
	return cmp.Or(strings.TrimSpace(string(text)), "it wrote nothing")
}

// errNoAnswer is the cause of a context that ended because no new supervisor answered within StartTimeout.
var errNoAnswer = errors.New("no supervisor answers in time")

// canceled classifies the end of a context: the caller gave up, or this package did.
func canceled(cause error) error {
	if errors.Is(cause, errNoAnswer) {
		return unavailable(cause)
	}
	return fmt.Errorf("local: %w: %w", fault.Canceled, cause)
}

func unavailable(err error) error { return fmt.Errorf("local: %w: %w", fault.Unavailable, err) }
