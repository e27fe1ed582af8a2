package memmachine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Method names a call to the cloud.
type Method string

// The methods. A List without faults makes one Page for each [Options.PageSize] machines.
const (
	Create  Method = "create"
	Get     Method = "get"
	List    Method = "list"
	Page    Method = "page"
	Destroy Method = "destroy"

	Prepare Method = "prepare"
	Exec    Method = "exec"
	Signal  Method = "signal"
	Suspend Method = "suspend"
	Resume  Method = "resume"
	Logs    Method = "logs"
)

// Call is one call on its way to the cloud. It belongs to the goroutine of the caller.
type Call struct {
	// Method says what is called.
	Method Method
	// Key says what it is about: the machine's name for Create and Prepare, the owner for List and Page, the machine's
	// id otherwise.
	Key string
	// Spec is what Create or Prepare was given, a copy; nil for the others.
	Spec *machine.Spec
	// Machine is the answer of Create and Get, set by Do.
	Machine *machine.Machine
	// Machines is the answer of List and Page, set by Do.
	Machines []*machine.Machine

	// Command is what Exec was given, Signal the name that Signal was, and Report what Prepare was, never nil.
	Command *machine.Command
	Signal  string
	Report  func(machine.Preparation)
	// Exit is the answer of Exec, set by Do.
	Exit *machine.Exit

	cloud  *Cloud
	rules  []*Rule // still to be asked
	effect func() error
}

// Do passes the call on, to the next rule that applies or to the cloud, and sets its answer. It may be called never,
// once or again.
func (c *Call) Do(ctx context.Context) error {
	for len(c.rules) > 0 {
		rule := c.rules[0]
		c.rules = c.rules[1:]
		if rule.applies(c) {
			return rule.fault(ctx, c)
		}
	}
	if ctx.Err() != nil {
		return c.canceled(ctx)
	}
	return c.effect()
}

// Failure is the error that the faults of this package give to the caller. It unwraps to its Kind.
type Failure struct {
	Kind       fault.Kind
	RetryAfter time.Duration // how long the cloud asks the caller to wait; 0: it does not say
	Text       string        // what happened
}

// Error returns the kind and the text.
func (f *Failure) Error() string { return string(f.Kind) + ": " + f.Text }

// Unwrap returns the kind, which is how package fault finds it.
func (f *Failure) Unwrap() error { return f.Kind }

// Fault is what happens to a call in place of what should. It may refuse it, pass it on with [Call.Do], change its
// answer, or wait; it must return when ctx ends. Its result is what the caller of the provider gets.
type Fault func(ctx context.Context, c *Call) error

// Rule is a [Fault] and when it happens. Its methods return the rule, to be chained behind [Cloud.Fail], and may be
// called at any time.
type Rule struct {
	fault Fault

	mu    sync.Mutex // guards what follows
	off   bool
	skip  int
	limit int // 0: none
	used  int
	when  func(*Call) bool
}

// Fail makes f happen to every call of the method from now on. Rules apply in the order they were made.
func (c *Cloud) Fail(method Method, f Fault) *Rule {
	rule := &Rule{fault: f, when: func(call *Call) bool { return call.Method == method }}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = append(c.rules, rule)
	return rule
}

// Heal ends all rules.
func (c *Cloud) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rule := range c.rules {
		rule.Stop()
	}
	c.rules = nil
}

// Times limits the rule to n calls, those it has had already included.
func (r *Rule) Times(n int) *Rule { return r.set(func() { r.limit = n }) }

// After lets the first n calls that reach the rule pass.
func (r *Rule) After(n int) *Rule { return r.set(func() { r.skip = n }) }

// When limits the rule to calls for which cond holds; other calls do not count. cond must not use the rule.
func (r *Rule) When(cond func(*Call) bool) *Rule {
	return r.set(func() {
		before := r.when
		r.when = func(c *Call) bool { return before(c) && cond(c) }
	})
}

// For limits the rule to calls about one key, as in [Call].
func (r *Rule) For(key string) *Rule { return r.When(func(c *Call) bool { return c.Key == key }) }

// Stop ends the rule.
func (r *Rule) Stop() { r.set(func() { r.off = true }) }

// Used returns how many calls the fault has happened to.
func (r *Rule) Used() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used
}

func (r *Rule) set(change func()) *Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	return r
}

// applies reports whether the fault happens to this call, and counts it.
func (r *Rule) applies(c *Call) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.off || !r.when(c):
		return false
	case r.skip > 0:
		r.skip--
		return false
	case r.limit > 0 && r.used >= r.limit:
		return false
	}
	r.used++
	return true
}

// answer carries a call through the rules to the cloud.
func (c *Cloud) answer(ctx context.Context, call *Call) error {
	c.mu.Lock()
	c.calls[call.Method]++
	call.rules = slices.Clone(c.rules)
	c.mu.Unlock()
	if ctx.Err() != nil {
		return call.canceled(ctx)
	}
	return call.Do(ctx)
}

func (c *Call) canceled(ctx context.Context) error {
	return fmt.Errorf("memmachine: %s of %s: %w: %w", c.Method, c.Key, fault.Canceled, context.Cause(ctx))
}

func (c *Call) failure(kind fault.Kind, text string) error {
	return fmt.Errorf("memmachine: %s of %s: %w", c.Method, c.Key, &Failure{Kind: kind, Text: text})
}

// oneMachine returns the answer of a Create or Get; a fault that reports success must have set it.
func (c *Call) oneMachine() (*machine.Machine, error) {
	if c.Machine == nil {
		return nil, c.failure(fault.Internal, "the fault reported success without a machine")
	}
	return c.Machine, nil
}

// Refuse fails the call before it has any effect: [fault.Exhausted] for lack of capacity, [fault.Denied] for
// revoked credentials, [fault.Unavailable] for a 500 that changed nothing, and so on.
func Refuse(kind fault.Kind) Fault {
	return func(_ context.Context, c *Call) error { return c.failure(kind, "refused by a rule") }
}

// TooManyRequests refuses the call with a [Failure] of kind [fault.Exhausted] that asks to wait.
func TooManyRequests(retryAfter time.Duration) Fault {
	return func(_ context.Context, c *Call) error {
		failure := &Failure{Kind: fault.Exhausted, RetryAfter: retryAfter, Text: "too many requests"}
		return fmt.Errorf("memmachine: %s of %s: %w", c.Method, c.Key, failure)
	}
}

// ExecuteThenTimeout carries the call out and tells the caller that it timed out.
func ExecuteThenTimeout(ctx context.Context, c *Call) error {
	if err := c.Do(ctx); err != nil {
		return err
	}
	return c.failure(fault.Unavailable, "the answer timed out")
}

// ExecuteThenHang carries the call out and gives no answer until the caller's context ends.
func ExecuteThenHang(ctx context.Context, c *Call) error {
	if err := c.Do(ctx); err != nil {
		return err
	}
	return Hang(ctx, c)
}

// Hang does nothing and gives no answer until the caller's context ends.
func Hang(ctx context.Context, c *Call) error {
	<-ctx.Done()
	return c.canceled(ctx)
}

// Delay passes the call on after d on the cloud's clock.
func Delay(d time.Duration) Fault {
	return func(ctx context.Context, c *Call) error {
		passed := make(chan struct{})
		stop := c.cloud.clock.AfterFunc(d, func() { close(passed) })
		defer stop()
		select {
		case <-ctx.Done():
			return c.canceled(ctx)
		case <-passed:
			return c.Do(ctx)
		}
	}
}

// LandLate tells the caller at once that the call timed out, and carries it out d later on the cloud's clock,
// whatever has been done since: a Create lands after somebody has given the machine up.
func LandLate(d time.Duration) Fault {
	return func(_ context.Context, c *Call) error {
		// Nobody is left to hear of a failure; landing on a name that is taken by then changes nothing.
		c.cloud.clock.AfterFunc(d, func() { _ = c.effect() })
		return c.failure(fault.Unavailable, "the answer timed out")
	}
}

// StartTwice makes a Create start two machines of one name, as a cloud whose names are not unique would when it
// repeats a request. The caller is told of the first.
func StartTwice(ctx context.Context, c *Call) error {
	if err := c.Do(ctx); err != nil {
		return err
	}
	c.cloud.duplicate(c.Spec)
	return nil
}

// PretendDestroyed makes a Destroy report success and do nothing.
func PretendDestroyed(context.Context, *Call) error { return nil }

// EmptyList makes a List or Page answer that there is nothing.
func EmptyList(context.Context, *Call) error { return nil }

// Omit leaves the machines with these ids or names out of a List or Page.
func Omit(idsOrNames ...string) Fault {
	return relist(func(all []*machine.Machine) []*machine.Machine {
		return slices.DeleteFunc(all, func(m *machine.Machine) bool {
			return slices.Contains(idsOrNames, m.ID) || slices.Contains(idsOrNames, m.Name)
		})
	})
}

// Duplicate mentions every machine of a List or Page twice.
func Duplicate(ctx context.Context, c *Call) error {
	return relist(func(all []*machine.Machine) []*machine.Machine {
		var twice []*machine.Machine
		for _, m := range all {
			twice = append(twice, m, cloneMachine(m))
		}
		return twice
	})(ctx, c)
}

// Shuffle answers a List or Page in another order each time; the seed makes it the same order in each run.
func Shuffle(seed uint64) Fault {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, seed))
	return relist(func(all []*machine.Machine) []*machine.Machine {
		mu.Lock()
		defer mu.Unlock()
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		return all
	})
}

// relist is a fault that carries a List or Page out and changes its answer.
func relist(change func([]*machine.Machine) []*machine.Machine) Fault {
	return func(ctx context.Context, c *Call) error {
		if err := c.Do(ctx); err != nil {
			return err
		}
		c.Machines = change(c.Machines)
		return nil
	}
}
