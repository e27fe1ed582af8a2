package dayfly

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/call"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/internal/rehearsal"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// program is what this process is. It is the one variable of the package that changes, because a process is one program: its
// functions are declared in package-level variables all over it, like the flags of package flag, and whether it is a runner is
// decided before any of its code has run.
var program = struct {
	functions call.Registry
	prepared  atomic.Bool               // Main was called
	invited   func() string             // what makes it a runner, or ""
	parent    atomic.Pointer[Beginning] // set before functions run
}{invited: sync.OnceValue(func() string { return os.Getenv(boot.ParentVariable) })}

// Beginning says where a runner comes from.
type Beginning struct {
	Pool    string // the name of the pool
	Runner  string // the runner's own name, which is also its machine's
	Program string // the parent's program
	Host    string // the parent's computer
	PID     int    // the parent's process there
}

// Main makes this process a runner if that is what it was started for, and then does not return: it serves calls until its
// parent is gone or needs it no more, and exits. In any other process it returns at once. It must be called first of all in main, before
// anything is opened, served or read, since whatever is before it happens in every runner, too. In tests that use a pool it belongs
// into TestMain.
//
//	func main() {
//		dayfly.Main()
//		…
//	}
//
// In a runner, what is logged with slog or log goes to the logger of the parent's pool, and so does what is printed to os.Stdout and
// os.Stderr, line by line. A record that is logged with the context of a call says which call it was; another one and a printed
// line do if only one call runs. What is logged at slog.LevelError or above, or by log.Fatal, is on its way before the code goes on;
// what is logged below that, or printed, right before an os.Exit may be lost.
func Main() {
	if status, helped := boot.Help(os.Args); helped {
		os.Exit(status)
	}
	word := program.invited()
	program.prepared.Store(true)
	if word == "" {
		return
	}
	// Programs that a function starts are no runners, even if they are this one.
	_ = os.Unsetenv(boot.ParentVariable)
	machine := os.Stderr // what is printed goes to the parent from now on, which may be the one that is gone
	live := serve
	if wire.IsFleetHome(word) {
		live = func(word string) error { return stand(word, machine) }
	}
	if err := live(word); err != nil {
		fmt.Fprintf(machine, "dayfly: this runner ends: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// InRunner reports whether this process is a runner, also before Main: a package's own variables may need less in one.
func InRunner() bool { return program.invited() != "" }

// Parent returns where this runner comes from. Outside of functions that run on a runner it returns nil.
func Parent() *Beginning { return program.parent.Load() }

// dialTimeout is how long a runner looks for its parent. A parent that waits for it no longer destroys its machine.
const dialTimeout = 2 * time.Minute

// partTimeout is how long a runner that was told to end, and has nothing to do, waits for its parent to let it go. Who tells a machine to
// end kills it after ten seconds, as a rule.
const partTimeout = 5 * time.Second

// serve is the life of a runner that has one parent.
func serve(word string) error {
	invitation, err := link.ParseInvitation(word)
	if err != nil {
		return fmt.Errorf("the variable %s in its environment, in which a pool tells a runner the way to it, holds what no pool has written; "+
			"unset it if this program is to be no runner: %w", boot.ParentVariable, err)
	}
	hello, err := link.ThisProcess()
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), dialTimeout)
	l, err := link.Dial(ctx, invitation, hello)
	stop()
	if err != nil {
		return err
	}
	d, err := newDesk()
	if err != nil {
		return err
	}
	_, err = d.serve(l, nil)
	return err
}

// desk is what the process of a runner has once, whichever parent it works for.
type desk struct {
	logs    *call.Logs
	asked   context.Context // ends when somebody has asked the process to end
	reserve []byte
}

// newDesk makes what the process logs and prints go to its parent.
func newDesk() (*desk, error) {
	d := &desk{logs: call.NewLogs()}
	slog.SetDefault(slog.New(d.logs.Handler()))
	if err := capture(d.logs); err != nil {
		return nil, err
	}
	log.SetOutput(&lastWords{log.Writer(), d.logs})
	// A runner keeps next to nothing, and so the collector would run for every few arguments of a mebibyte and take longer than they
	// do. It thinks that there is this much more to keep; memory that nobody touches is none.
	d.reserve = make([]byte, 8<<20)
	// Who ends machines asks first. The parent lets what runs here come to its end; until then the work goes on.
	d.asked, _ = signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	return d, nil
}

// serve runs what the parent at the other end of the link asks for, until the link is over. When the process is asked to end, or
// leave is closed, the parent is told that the runner leaves. The error says how the parent was lost, nil when it has closed the link.
func (d *desk) serve(l *link.Link, leave <-chan struct{}) (*call.Server, error) {
	server := call.NewServer(&program.functions, l, d.logs)
	d.logs.Serve(server)
	server.OnSettings(func(s call.Settings) {
		peer := l.Peer()
		program.parent.Store(&Beginning{Pool: s.Pool, Runner: s.Runner, Program: peer.Program, Host: peer.Host, PID: peer.PID})
	})
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-d.asked.Done():
			server.Leave(partTimeout)
		case <-leave:
			server.Leave(0) // nobody is about to kill it
		case <-over:
		}
	}()
	err := orderly(server.Serve())
	runtime.KeepAlive(d.reserve)
	return server, err
}

// play is the life of a runner whose process is also its parent's, as package dayflytest has them. What belongs to the process, such as
// its standard output and its signals, stays as it is.
func play(ctx context.Context, part *rehearsal.Part) error {
	invitation, err := link.ParseInvitation(part.Spec.Env[boot.ParentVariable])
	if err != nil {
		return err
	}
	hello, err := link.ThisProcess()
	if err != nil {
		return err
	}
	hello.Build = cmp.Or(part.Build, hello.Build)
	dialing, stop := context.WithTimeout(ctx, dialTimeout)
	l, err := link.DialOver(dialing, part.Network, invitation, hello)
	stop()
	if err != nil {
		return err
	}
	server := call.NewServer(&program.functions, l, call.NewLogs())
	server.Around(part.Around)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-part.Leave:
			server.Leave(partTimeout)
		case <-over:
		}
	}()
	defer context.AfterFunc(ctx, func() {
		l.Lose(context.Cause(ctx))
		server.Abandon(context.Cause(ctx))
	})()
	return orderly(server.Serve())
}

// orderly returns why a runner has lost its parent, and nil when that has closed the link.
func orderly(err error) error {
	if end, ok := errors.AsType[*link.End](err); ok && !end.Lost {
		return nil
	}
	return err
}

// lastWords is where package log writes to. Its Fatal ends the process, and what it says is why: it has to be on its way before that.
type lastWords struct {
	io.Writer
	logs *call.Logs
}

// Write implements io.Writer.
func (w *lastWords) Write(line []byte) (int, error) {
	n, err := w.Writer.Write(line)
	if isFatal() {
		ctx, cancel := context.WithTimeout(context.Background(), lastMoment)
		defer cancel()
		w.logs.Flush(ctx)
	}
	return n, err
}

// isFatal reports whether it is called, by way of others, by one of package log's functions that end the process.
func isFatal() bool {
	var callers [16]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers[:])])
	for {
		frame, more := frames.Next()
		if strings.HasPrefix(frame.Function, "log.Fatal") || strings.HasPrefix(frame.Function, "log.(*Logger).Fatal") {
			return true
		}
		if !more {
			return false
		}
	}
}

// capture makes what the process prints go to the parent. Only what goes through the variables of package os does: what the
// runtime writes when it crashes still goes to the machine's own output, where the parent finds it when the runner is lost.
func capture(logs *call.Logs) error {
	var pipes []*os.File
	for _, stream := range []struct {
		file   **os.File
		source call.Source
	}{{&os.Stdout, call.Printed}, {&os.Stderr, call.Errors}} {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		*stream.file = w
		logs.Pipe(w)
		pipes = append(pipes, r)
		go logs.Lines(r, stream.source)
	}
	return logs.Unread(pipes...)
}

// ReportProgress tells the caller how far a function is: fraction is between 0 and 1, and text a few words. ctx is the function's,
// or made of it. It does not wait, and does nothing if nobody listens, or outside of a call.
func ReportProgress(ctx context.Context, fraction float64, text string) {
	if x := call.From(ctx); x != nil {
		x.Progress(fraction, text)
	}
}

// Draining returns a channel that is closed when the function's runner is about to be stopped, and the function should come
// to its end. ctx is the function's, or made of it, and ends when PoolOptions.ShutdownTimeout is over. Outside of a call it
// returns nil, which is never closed.
func Draining(ctx context.Context) <-chan struct{} {
	if x := call.From(ctx); x != nil {
		return x.Draining()
	}
	return nil
}
