package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// ExitNotOurs is the exit code of an agent whose attempt was refused, superseded, orphaned or interrupted: nothing is
// wrong with the machine, there is only nothing for it to do. It is EX_TEMPFAIL of sysexits.h.
const ExitNotOurs = 75

// Place is where an attempt runs and on whose behalf. The fields from Entrypoint on may be left out, but for Env.
type Place struct {
	Boot     machine.Agent  // where home is, which attempt to claim, and the token that opens the claim
	Instance string         // the machine's name, 1 to 128 bytes
	Group    *process.Group // the process tree of the command; it stays the caller's to close
	WorkDir  string         // the command's working directory: inputs are put into it, outputs are found in it
	// ScratchDir is for the files that command and agent exchange, and for output the server has not taken yet. It
	// must not be inside WorkDir.
	ScratchDir string
	// Entrypoint comes before the words of every command, as the entrypoint of the image that the place is made of; it may
	// be nil.
	Entrypoint []string
	Env        []string // the base environment, KEY=VALUE; the job's own variables are added to it
	// Home returns the server's current base URL, for hosts whose server may come back at another address; "" is
	// Boot.URL. The channel is closed when a server says anew where it is, be it at the same address: then it is there,
	// and who waits before calling it again does so at once. It is called before each request, by several goroutines.
	// nil: always Boot.URL.
	Home func() (url string, renewed <-chan struct{})
	// Renew makes the place as it was before its first attempt: nothing runs in Group, nothing is in WorkDir and ScratchDir,
	// and nothing else has changed that the next attempt could notice. Its error says why that cannot be. It is called when
	// nothing of the last attempt runs any more. nil: the place is good for one attempt.
	Renew func(ctx context.Context) error
	// Begin is called before each attempt, which Renew ends, on a machine of a pool: what the slots of a machine share is put
	// right by the last of them that has one, and none begins one meanwhile. What attempts in others may have got at since Renew
	// is made anew; its error says why that cannot be. nil: they share nothing.
	Begin func() error
	// Divide divides the machine of a pool into so many slots, and returns the place of each, which takes the place of this one.
	// What runs in one is not disturbed by what becomes of another. Boot and Instance are those of the machine. It is called
	// once at most, before the first attempt. nil: the machine has one slot.
	Divide func(slots int) ([]*Place, error)
}

// Options are the optional parts of [Run]; nil means the defaults.
type Options struct {
	Version string       // the agent's version, to show
	Logger  *slog.Logger // default: discards
	// Web moves inputs and outputs to and from their URLs. Attempts that share one share its connections. Default:
	// http.DefaultClient.
	Web *http.Client
	// Clock tells the time since some fixed moment, suspend included. Default: [BootClock].
	Clock func() time.Duration
}

// Run carries out one attempt and returns once nothing of it runs any more. When ctx ends, the command is killed with
// all its descendants and Run returns at once, without reporting a result.
//
// The exit is that of the agent, not of the command: code 0 when the server has accepted the attempt's result,
// whatever that was, and [ExitNotOurs] with a message otherwise.
func Run(ctx context.Context, link Link, place *Place, opts *Options) machine.Exit {
	if opts == nil {
		opts = &Options{}
	}
	logger := opts.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	clock := opts.Clock
	if clock == nil {
		clock = BootClock
	}
	web := opts.Web
	if web == nil {
		web = http.DefaultClient
	}
	logger = logger.With("machine", place.Instance)
	var err error
	if ofPool(place.Boot.Attempt) {
		p := &pooled{version: opts.Version, web: web, log: logger, link: link, clock: clock}
		err = p.serve(ctx, place)
	} else {
		a := &attempt{place: place, version: opts.Version, web: web, status: newStatus(), log: logger.With("attempt", place.Boot.Attempt)}
		a.line = newLine(ctx, link, place, clock)
		err = a.carryOut()
		a.line.end(nil)
		a.background.Wait()
	}
	switch {
	case err == nil:
		return machine.Exit{}
	case ctx.Err() != nil:
		return machine.Exit{Code: ExitNotOurs, Message: "The agent was told to stop before the attempt's result was accepted."}
	}
	logger.Info("the agent ends without an accepted result", "error", err)
	return machine.Exit{Code: ExitNotOurs, Message: sentenceOf(err)}
}

// attempt is one attempt from claim to result.
type attempt struct {
	place   *Place
	version string
	web     *http.Client
	log     *slog.Logger
	line    *line

	job    *wire.Assignment
	nonce  string
	claims string          // what it is claimed by on a machine of a pool, in place of its id; else ""
	work   context.Context // ends with the line's life, or on an order to stop
	halt   context.CancelCauseFunc
	status *status
	files  *files
	inputs map[string]wire.Input // what was fetched, by name
	out    [2]*stream            // standard output and standard error

	kept    bool         // the result is on disk too
	outcome wire.Outcome // of the accepted result; "" while there is none

	background sync.WaitGroup // the heartbeats
}

// carryOut does everything an agent does; nil means that the server has accepted a result.
func (a *attempt) carryOut() error {
	files, err := openScratch(a.place)
	if err != nil {
		return err
	}
	defer files.close()
	a.files = files
	if a.job != nil { // it has been claimed
		return a.accomplish()
	}

	if kept, err := files.loadUndelivered(a.place.Boot.Attempt); err != nil {
		a.log.Warn("an undelivered result could not be read; the attempt is claimed again", "error", err)
	} else if kept != nil {
		a.kept = true
		a.line.open(kept.Token, kept.silence())
		return a.deliver(kept.Result)
	}
	if err := a.claim(); err != nil {
		return err
	}
	return a.accomplish()
}

// accomplish does what comes after the claim.
func (a *attempt) accomplish() error {
	a.work, a.halt = context.WithCancelCause(a.line.life)
	defer a.halt(nil)
	beating, stopBeating := context.WithCancel(a.line.life)
	defer stopBeating()
	a.background.Go(func() { a.beat(beating) })

	result := a.perform()
	// From here on the result is the sign of life. A heartbeat could be told that the attempt is over because its
	// result has just been accepted.
	stopBeating()
	if err := a.line.over(); err != nil {
		return err
	}
	if err := a.deliver(result); err != nil {
		return err
	}
	a.outcome = result.Outcome
	a.stay(result)
	return nil
}

// stay keeps the machine for as long as the job wants after a failure, so that somebody can look at it. Nobody has to
// tell it to go: a server that does not want the machine any more has it destroyed.
func (a *attempt) stay(r *wire.Result) {
	if a.job.KeepMS <= 0 || r.Outcome != wire.Failed && r.Outcome != wire.TimedOut {
		return
	}
	keep := milliseconds(a.job.KeepMS, 0)
	a.log.Info("the attempt has failed, and its machine is kept", "for", keep)
	for until := a.line.clock() + keep; a.line.clock() < until; {
		// Timers may stand still while the computer is suspended, and the clock does not.
		if !pause(a.line.life, min(until-a.line.clock(), 30*time.Second)) {
			return
		}
	}
}

// maxBoot is how long an agent tries to claim its attempt. A server that was away for longer has given the attempt up
// by then: it counts the time a machine takes to call.
const maxBoot = 10 * time.Minute

// claim asks for the attempt until there is an answer, always with the same nonce: a claim whose answer was lost is
// answered again.
func (a *attempt) claim() error {
	a.nonce = rand.Text()
	a.line.open(a.place.Boot.Token, maxBoot)
	err := a.line.do(a.line.life, func(ctx context.Context, to Address) error {
		job, err := a.line.link.Claim(ctx, to, a.claimRequest())
		if err == nil {
			a.job = job
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("agent: claiming attempt %s: %w", a.place.Boot.Attempt, err)
	}
	a.line.open(a.job.Token, milliseconds(a.job.OrphanAfterMS, defaultOrphanAfter))
	a.log = a.log.With("job", a.job.Job)
	return nil
}

func (a *attempt) claimRequest() *wire.ClaimRequest {
	return &wire.ClaimRequest{
		Attempt:  cmp.Or(a.claims, a.place.Boot.Attempt),
		Instance: a.place.Instance,
		Nonce:    a.nonce,
		Protocol: wire.Version,
		Agent:    a.version,
	}
}

// defaultOrphanAfter stands in for an assignment that does not say how long to go on without an answer.
const defaultOrphanAfter = 10 * time.Minute

// perform does the work between claim and result. When the line's life has ended meanwhile its result means nothing.
func (a *attempt) perform() *wire.Result {
	r := &wire.Result{AgentInfo: a.version}
	began := a.line.clock()
	a.status.enter(wire.Fetching)
	err := a.fetch()
	r.FetchMS = (a.line.clock() - began).Milliseconds()

	switch reason := ordered(a.work); {
	case reason != "":
		r.Outcome, r.Message = reason, stoppedBeforeStart
	case err != nil:
		failFetch(r, err)
	case !a.line.listen():
		// The machine may have been suspended while it fetched, and the attempt given to another: start nothing.
	default:
		a.run(r)
		a.finish(r)
	}
	return r
}

const stoppedBeforeStart = "It was told to stop before its command started."

// ordered returns the outcome that the server ordered when it told the attempt to stop, or "".
func ordered(work context.Context) wire.Outcome {
	if order, ok := errors.AsType[*orderToStop](context.Cause(work)); ok {
		return order.reason
	}
	return ""
}

// orderToStop is why the work ended when the server wants it to.
type orderToStop struct{ reason wire.Outcome }

func (o *orderToStop) Error() string {
	return "agent: the server told the attempt to stop: " + string(o.reason)
}

// sentenceOf makes one sentence for a person of an error.
func sentenceOf(err error) string {
	if text, ok := fault.Sentence(err); ok {
		return text
	}
	text := plain(err)
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// plain returns the text of an error without the names of packages and kinds, which say nothing to a person.
func plain(err error) string {
	return strings.NewReplacer("agent: ", "", "process: ", "", "unavailable: ", "", "exhausted: ", "", "internal: ", "").Replace(err.Error())
}

// milliseconds converts a duration of the protocol, where 0 or less means the default.
func milliseconds(ms int64, otherwise time.Duration) time.Duration {
	if ms <= 0 {
		return otherwise
	}
	return time.Duration(min(ms, maxMilliseconds)) * time.Millisecond
}

// maxMilliseconds keeps a duration of the protocol from overflowing a time.Duration, sums of a few included.
const maxMilliseconds = int64(1) << 40
