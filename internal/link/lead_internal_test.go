package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// asker is a parent whose goroutines ask and wait for the answer, reading it themselves where they may.
type asker struct {
	link *Link

	mu      sync.Mutex
	waiting map[uint32]chan struct{}
	answers []uint32 // in the order in which they came
	led     int      // how many got their answer by their own reading
	waited  int      // and how many from another's
}

func newAsker(l *Link) *asker {
	a := &asker{link: l, waiting: map[uint32]chan struct{}{}}
	l.Share(func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.waiting) == 0
	})
	return a
}

// handle takes an answer, or what nobody has asked for.
func (a *asker) handle(frame []byte) {
	id := binary.BigEndian.Uint32(frame)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers = append(a.answers, id)
	if woken := a.waiting[id]; woken != nil {
		delete(a.waiting, id)
		woken <- struct{}{}
	}
}

// ask sends a frame of that size and waits for the answer, at most until the context or the deadline ends.
func (a *asker) ask(ctx context.Context, deadline time.Time, id uint32, size int) error {
	woken := make(chan struct{}, 1)
	a.mu.Lock()
	a.waiting[id] = woken
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.waiting, id)
	}()
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, size+4), id)
	if err := a.link.Send(ctx, frame[:size+4]); err != nil {
		return err
	}
	led := a.link.Lead(ctx, deadline, woken)
	if !led {
		var late <-chan time.Time
		if !deadline.IsZero() {
			late = time.After(time.Until(deadline))
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return context.DeadlineExceeded
		case <-a.link.Done():
			return a.link.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if led {
		a.led++
	} else {
		a.waited++
	}
	return nil
}

// echo answers each frame with its first bytes. One that is longer says how many milliseconds that takes by its length; a thousand: for ever.
func echo(l *Link) func([]byte) {
	return func(frame []byte) {
		id := append([]byte(nil), frame[:4]...)
		switch wait := len(frame) - 4; wait {
		case 0:
			_ = l.Post(id) // the link may be over
		case 1000:
		default:
			time.AfterFunc(time.Duration(wait)*time.Millisecond, func() { _ = l.Post(id) })
		}
	}
}

// asking runs a test with an asker over a network whose connections have these fates.
func asking(t *testing.T, fates []fate, test func(t *testing.T, a *asker, runner *Link, n *network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		parent, runner, n := flakyPair(time.Minute, fates)
		a := newAsker(parent)
		s := serve(parent, runner, a.handle, echo(runner))
		defer s.Wait()
		defer runner.Close(nil)
		test(t, a, runner, n)
	})
}

// warm asks alone until who asks reads.
func (a *asker) warm(t *testing.T) {
	t.Helper()
	synctest.Wait() // who was called back reads again
	a.led = 0
	for i := range uint32(standbyAfter + 1) {
		if err := a.ask(t.Context(), time.Time{}, 1000+i, 0); err != nil {
			t.Fatalf("asking alone: %v", err)
		}
		synctest.Wait()
		if a.led > 0 {
			a.led, a.waited, a.answers = 0, 0, nil
			return
		}
	}
	t.Fatalf("after %d lone questions: got no answer that was read by who waited for it", standbyAfter+1)
}

func TestWhoWaitsAloneReadsTheAnswerItself(t *testing.T) {
	t.Parallel()
	asking(t, nil, func(t *testing.T, a *asker, _ *Link, _ *network) {
		a.warm(t)
		for i := range uint32(100) {
			if err := a.ask(t.Context(), time.Time{}, i, int(i)%4); err != nil {
				t.Fatal(err)
			}
		}
		if a.led != 100 || len(a.answers) != 100 {
			t.Errorf("got %d answers read by who waited and %d altogether, want 100 of each", a.led, len(a.answers))
		}
	})
}

func TestFramesForWhichNobodyWaitsAreSoonReadByServe(t *testing.T) {
	t.Parallel()
	asking(t, nil, func(t *testing.T, a *asker, runner *Link, _ *network) {
		for range 3 { // and each time somebody came before
			a.warm(t)
			began := time.Now()
			if err := runner.Send(t.Context(), []byte("news")); err != nil {
				t.Fatal(err)
			}
			<-time.After(2 * standbyTick)
			synctest.Wait()
			a.mu.Lock()
			if len(a.answers) != 1 {
				t.Errorf("%v after a frame that nobody waited for: got it %d times, want once", time.Since(began), len(a.answers))
			}
			a.mu.Unlock()
			// Serve reads again, and nothing ticks.
			if a.link.hasty.Load() || a.link.leading.readers.Load() != readByServe {
				t.Errorf("afterwards: got in a hurry: %v, read by %v; want false, and by Serve", a.link.hasty.Load(), a.link.leading.readers.Load())
			}
		}
	})
}

func TestFramesThatNobodyWaitsForAreNotHeldUpAgainAndAgain(t *testing.T) {
	t.Parallel()
	typing(t, func(t *testing.T, p *typed) {
		began := time.Now()
		for i := range uint32(standbyAfter + standbyAgain) {
			p.write(answerTo(1000 + i))
		}
		if took := time.Since(began); took > 2*standbyTick {
			t.Errorf("%d frames that nobody waits for: got them held up for %v, want it once", standbyAfter+standbyAgain, took)
		}
	})
}

func TestALeaderLeavesWhenItsContextOrItsDeadlineEnds(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(time.Duration) (context.Context, context.CancelFunc, time.Time){
		"canceled": func(d time.Duration) (context.Context, context.CancelFunc, time.Time) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(d, cancel)
			return ctx, cancel, time.Time{}
		},
		"the context's deadline": func(d time.Duration) (context.Context, context.CancelFunc, time.Time) {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			return ctx, cancel, time.Time{}
		},
		"the deadline": func(d time.Duration) (context.Context, context.CancelFunc, time.Time) {
			return context.Background(), func() {}, time.Now().Add(d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, after := range []time.Duration{0, 1, standbyTick - 1, standbyTick, 2 * standbyTick, time.Second, time.Hour} {
				asking(t, nil, func(t *testing.T, a *asker, _ *Link, _ *network) {
					a.warm(t)
					ctx, cancel, deadline := limit(after)
					defer cancel()
					began := time.Now()
					err := a.ask(ctx, deadline, 1, 1000)
					took := time.Since(began)
					if err == nil {
						t.Errorf("a wait of %v for what never comes: got an answer", after)
					}
					if took != after {
						t.Errorf("a wait of %v for what never comes: got %v", after, took)
					}
					a.answers = nil
					for i := range uint32(3) { // and all is as it was
						if err := a.ask(t.Context(), time.Time{}, 10+i, 0); err != nil {
							t.Fatal(err)
						}
					}
					if len(a.answers) != 3 {
						t.Errorf("after the wait: got %d answers to three questions", len(a.answers))
					}
				})
			}
		})
	}
}

func TestWhoAsksWhileAnotherLeadsGetsItsAnswerFromItOrAfterIt(t *testing.T) {
	t.Parallel()
	asking(t, nil, func(t *testing.T, a *asker, _ *Link, _ *network) {
		for _, delays := range [][2]int{{20, 1}, {1, 20}, {1, 1}, {100, 99}, {3, 4}} {
			a.warm(t)
			began := time.Now()
			var asking sync.WaitGroup
			for i, delay := range delays {
				asking.Go(func() {
					if err := a.ask(t.Context(), time.Time{}, uint32(i), delay); err != nil {
						t.Error(err)
					}
					if took, want := time.Since(began), time.Duration(delay)*time.Millisecond; took != want {
						t.Errorf("two questions whose answers take %v ms: got one of %v after %v", delays, want, took)
					}
				})
				synctest.Wait() // the first leads
			}
			asking.Wait()
		}
	})
}

func TestALinkIsClosedAtOnceWhileServeStandsBy(t *testing.T) {
	t.Parallel()
	asking(t, nil, func(t *testing.T, a *asker, _ *Link, _ *network) {
		a.warm(t)
		began := time.Now()
		a.link.Close(nil)
		if took := time.Since(began); took != 0 {
			t.Errorf("Close: got %v, want it not to wait for a tick", took)
		}
	})
}

func TestALeaderIsToldWhenTheLinkEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(parent, runner *Link){
		"lost here":           func(parent, _ *Link) { parent.Lose(errors.New("the machine is gone")) },
		"closed here":         func(parent, _ *Link) { parent.Close(errors.New("enough")) },
		"goodbye of the peer": func(_, runner *Link) { runner.Close(errors.New("enough")) },
		"the peer is gone":    func(_, runner *Link) { runner.Lose(errors.New("it is gone")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asking(t, nil, func(t *testing.T, a *asker, runner *Link, _ *network) {
				a.warm(t)
				time.AfterFunc(30*time.Millisecond, func() { end(a.link, runner) })
				err := a.ask(t.Context(), time.Time{}, 1, 1000)
				if _, ok := errors.AsType[*End](err); !ok {
					t.Errorf("got %v, want the link's end", err)
				}
			})
		})
	}
}

// typed is a parent whose peer is typed by the test, record by record.
type typed struct {
	*asker
	t     *testing.T
	there net.Conn
	other func(frame []byte) // takes what is no answer
}

// typing runs a test with it.
func typing(t *testing.T, test func(t *testing.T, p *typed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		parent := newLink("r", Hello{}, time.Minute)
		if !parent.attach(newWire(here, here, nil), 0, 0) {
			t.Fatal("the link takes no wire")
		}
		p := &typed{asker: newAsker(parent), t: t, there: there}
		var serving sync.WaitGroup
		serving.Go(func() {
			_ = parent.Serve(func(frame []byte) { // the test looks at why it ends, where it matters
				if len(frame) != 4 {
					p.other(frame)
					return
				}
				p.handle(frame)
			})
		})
		defer func() {
			parent.Lose(errors.New("the test is over"))
			there.Close()
			serving.Wait()
		}()
		test(t, p)
	})
}

// write lets these bytes arrive, together.
func (p *typed) write(bytes ...[]byte) {
	p.t.Helper()
	if _, err := p.there.Write(slices.Concat(bytes...)); err != nil {
		p.t.Errorf("writing: %v", err)
	}
	synctest.Wait()
}

// answerTo is the record of an answer.
func answerTo(id uint32) []byte {
	head := header(recordFrame, 4)
	return binary.BigEndian.AppendUint32(head[:], id)
}

// lead begins to lead. What Lead returns is sent.
func (p *typed) lead(ctx context.Context, id uint32) <-chan bool {
	p.t.Helper()
	for i := range uint32(standbyAfter) {
		p.write(answerTo(1000 + i))
	}
	woken := make(chan struct{}, 1)
	p.mu.Lock()
	p.waiting[id] = woken
	p.mu.Unlock()
	left := make(chan bool, 1)
	go func() { left <- p.link.Lead(ctx, time.Time{}, woken) }()
	synctest.Wait()
	if p.link.leading.readers.Load() != readByLeader {
		p.t.Fatalf("got read by %v, want by the leader", p.link.leading.readers.Load())
	}
	p.answers = nil
	return left
}

func TestALargeFrameArrivesWholeThoughItsLeaderLeavesInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, smallBuffer, OwnFrame, MaxFrame} {
		for _, first := range []int{1, headerSize, headerSize + 3, headerSize + size/2} {
			typing(t, func(t *testing.T, p *typed) {
				var got []byte
				p.other = func(frame []byte) { got = slices.Clone(frame) }
				ctx, cancel := context.WithCancel(t.Context())
				left := p.lead(ctx, 1)
				frame, head := frameOf(7, size), header(recordFrame, size)
				record := append(head[:], frame...)
				p.write(record[:first])
				cancel()
				if <-left {
					t.Error("Lead: got true, want false for a wait that was canceled")
				}
				p.write(record[first:], answerTo(2))
				if string(got) != string(frame) {
					t.Errorf("a frame of %d bytes, whose leader left after %d: got %d bytes, want all as they were sent", size, first, len(got))
				}
				if want := []uint32{2}; !slices.Equal(p.answers, want) {
					t.Errorf("the frame after it: got %v, want %v", p.answers, want)
				}
			})
		}
	}
}

func TestFramesThatCameTogetherWithTheLeadersAreHandledAtOnce(t *testing.T) {
	t.Parallel()
	typing(t, func(t *testing.T, p *typed) {
		left := p.lead(t.Context(), 1)
		p.write(answerTo(1), answerTo(2), answerTo(3))
		if !<-left {
			t.Error("Lead: got false, want true: the answer is there")
		}
		synctest.Wait()
		if want := []uint32{1, 2, 3}; !slices.Equal(p.answers, want) {
			t.Errorf("handled without any wait: got %v, want %v", p.answers, want)
		}
	})
}

func TestWhatALeaderCannotReadEndsTheLink(t *testing.T) {
	t.Parallel()
	typing(t, func(t *testing.T, p *typed) {
		left := p.lead(t.Context(), 1)
		unknown := header(99, 4)
		p.write(unknown[:], []byte("what"))
		if <-left {
			t.Error("Lead: got true, want false: there is no answer")
		}
		synctest.Wait()
		want := "the peer sent a record of the unknown kind 99"
		if end, ok := errors.AsType[*End](p.link.Err()); !ok || end.Reason != want {
			t.Errorf("the link's end: got %v, want %q", p.link.Err(), want)
		}
	})
}

func TestNobodyReadsOnAfterALeaderWhoCouldNot(t *testing.T) {
	t.Parallel()
	typing(t, func(t *testing.T, p *typed) {
		left := p.lead(t.Context(), 1)
		p.write(answerTo(1))
		<-left
		p.link.mu.Lock()
		p.link.stint.Load().failed = errors.New("what was read made no sense")
		p.link.mu.Unlock()
		began := time.Now()
		led := p.link.Lead(t.Context(), time.Time{}, make(chan struct{}, 1))
		if took := time.Since(began); led || took != 0 {
			t.Errorf("Lead: got %v after %v, want false at once", led, took)
		}
		p.link.stint.Load().callBack() // as the leader that could not read does
		synctest.Wait()
		if p.link.Connected() {
			t.Error("after a read that failed: got the same connection, want it to be given up")
		}
	})
}

func TestWhoBeginsToWaitWhileServeLeavesIsNotForgotten(t *testing.T) {
	t.Parallel()
	typing(t, func(t *testing.T, p *typed) {
		calm, woken := p.link.calm, make(chan struct{}, 1)
		asked := 0
		p.link.calm = func() bool {
			asked++
			if !calm() || asked != standbyAfter {
				return calm()
			}
			p.mu.Lock()
			p.waiting[1] = woken
			p.mu.Unlock()
			if p.link.Lead(t.Context(), time.Time{}, woken) {
				t.Error("Lead: got true, want false: Serve still reads")
			}
			return true // as it was when it was asked
		}
		for i := range uint32(standbyAfter) {
			p.write(answerTo(1000 + i))
		}
		began := time.Now()
		p.write(answerTo(1))
		if took := time.Since(began); took != 0 || len(woken) != 1 {
			t.Errorf("who began to wait when Serve had just found everything calm: got %d answers after %v, want it at once", len(woken), took)
		}
	})
}

func TestALateRecallRecallsNobodyElse(t *testing.T) {
	t.Parallel()
	typing(t, func(t *testing.T, p *typed) {
		left := p.lead(t.Context(), 1)
		p.link.recall(p.link.stint.Load(), p.link.leading.count-1)
		p.write(answerTo(1))
		if !<-left {
			t.Error("Lead: got false, want true: it was another who was to leave")
		}
	})
}

// question is one of a caller of the walk.
type question struct {
	pause, delay, patience time.Duration // a patience of 0 has no end
	cancels                bool          // the patience is the context's
}

// put asks it. Only who has no patience must get an answer.
func (q question) put(a *asker, id uint32) error {
	<-time.After(q.pause) // of the bubble, as all times here
	ctx, cancel, deadline := context.Background(), func() {}, time.Time{}
	if q.patience > 0 && q.cancels {
		ctx, cancel = context.WithTimeout(ctx, q.patience)
	} else if q.patience > 0 {
		deadline = time.Now().Add(q.patience)
	}
	defer cancel()
	err := a.ask(ctx, deadline, id, int(q.delay/time.Millisecond))
	if q.patience > 0 && errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// putAll lets each caller put its questions one after the other, and returns what was wrong.
func putAll(a *asker, callers [][]question) error {
	failed := make(chan error, len(callers)+1)
	var asking sync.WaitGroup
	want := 1
	for c, questions := range callers {
		want += len(questions)
		asking.Go(func() {
			for i, q := range questions {
				if err := q.put(a, uint32(c*1000+i)); err != nil {
					failed <- fmt.Errorf("question %d of caller %d: %w", i, c, err)
					return
				}
			}
		})
	}
	asking.Wait()
	<-time.After(time.Second) // the last answers of those who did not wait come
	if err := (question{}).put(a, 1<<30); err != nil {
		return fmt.Errorf("the last question: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.Sort(a.answers)
	if once := slices.Compact(slices.Clone(a.answers)); len(once) != len(a.answers) || len(once) != want && len(failed) == 0 {
		return fmt.Errorf("got %d answers, %d different ones; want %d, each once", len(a.answers), len(once), want)
	}
	close(failed)
	return <-failed
}

func TestEveryAnswerComesOnceHoweverWaitersComeAndGo(t *testing.T) {
	t.Parallel()
	led, waited := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		budget := rapid.OneOf(rapid.IntRange(0, 300), rapid.Just(-1))
		fates := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fate {
			return fate{budget.Draw(t, "to parent"), budget.Draw(t, "to runner"), rapid.IntRange(0, 100).Draw(t, "lost")}
		}), 0, 4).Draw(r, "fates")
		questions := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) question {
			ms := rapid.Map(rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 12), rapid.IntRange(0, 60)), func(n int) time.Duration { return time.Duration(n) * time.Millisecond })
			return question{ms.Draw(t, "pause"), ms.Draw(t, "delay"), ms.Draw(t, "patience"), rapid.Bool().Draw(t, "cancels")}
		}), 1, 40)
		callers := rapid.SliceOfN(questions, 1, 4).Draw(r, "questions")
		var wrong error
		asking(t, fates, func(_ *testing.T, a *asker, _ *Link, _ *network) {
			wrong = putAll(a, callers)
			led, waited = led+a.led, waited+a.waited
		})
		if wrong != nil {
			r.Fatal(wrong)
		}
	})
	if led == 0 || waited == 0 {
		t.Errorf("got %d answers read by who waited for them and %d by others, want some of each", led, waited)
	}
}
