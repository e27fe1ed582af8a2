package link

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// stalled is the fate of a connection on which nothing arrives and which does not break: the network between swallows
// it all.
func stalled() fate { return fate{0, 0, swallows} }

// serving lets a link be served until it is over.
type serving struct {
	sync.WaitGroup
	parent, runner *Link
}

func serve(parent, runner *Link, atParent, atRunner func([]byte)) *serving {
	s := &serving{parent: parent, runner: runner}
	s.Go(func() { _ = parent.Serve(atParent) }) // why is looked at in Err
	s.Go(func() { _ = runner.Serve(atRunner) })
	return s
}

func ignore([]byte) {}

func TestALinkOnWhichNothingIsSaidLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		parent, runner, n := flakyPair(15*time.Second, nil)
		s := serve(parent, runner, ignore, ignore)
		time.Sleep(24 * time.Hour)
		if parent.Err() != nil || runner.Err() != nil || n.dials != 1 {
			t.Errorf("after a day: got %v, %v and %d connections, want a living link and 1", parent.Err(), runner.Err(), n.dials)
		}
		runner.Close(nil)
		s.Wait()
	})
}

func TestAPeerThatIsSilentIsLostAtBothEndsInTime(t *testing.T) {
	t.Parallel()
	const silence = 15 * time.Second
	for name, resumable := range map[string]bool{"where connections break": true, "on one computer": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fates := make([]fate, 1000)
				for i := range fates {
					fates[i] = stalled()
				}
				parent, runner, n := flakyPair(silence, fates)
				if !resumable {
					parent.resumable, runner.resumable, runner.redial = false, false, nil
					c, err := n.dial(t.Context(), 0)
					if err != nil {
						t.Fatal(err)
					}
					runner.attach(c.wire, 0, 0)
				} else {
					dial := runner.redial
					runner.redial = func(ctx context.Context, received uint64) (*connection, error) {
						if n.dials > 0 {
							return nil, errors.New("no route to the parent")
						}
						return dial(ctx, received)
					}
				}
				began := time.Now()
				s := serve(parent, runner, ignore, ignore)
				for _, l := range []*Link{parent, runner} {
					<-l.Done()
					took := time.Since(began)
					end, ok := errors.AsType[*End](l.Err())
					if !ok || !end.Lost || fault.Of(l.Err()) != fault.Unavailable || took > silence || took < silence*3/4 {
						t.Errorf("the end: got %v after %v, want a loss between %v and %v", l.Err(), took, silence*3/4, silence)
					}
				}
				s.Wait()
			})
		})
	}
}

func TestASilentConnectionIsReplacedBeforeThePeerIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		parent, runner, n := flakyPair(15*time.Second, []fate{{100, 100, swallows}, stalled(), {1000, 1000, swallows}})
		sizes := []int{10, 200, 300, 400, 500}
		atParent, atRunner := newChecker(sizes), newChecker(sizes)
		s := serve(parent, runner, atParent.handle, atRunner.handle)
		for i, size := range sizes {
			for _, l := range []*Link{parent, runner} {
				if err := l.Send(t.Context(), frameOf(i, size)); err != nil {
					t.Fatal(err)
				}
			}
		}
		<-atParent.done
		<-atRunner.done
		if n.dials != 4 || atParent.wrong != nil || atRunner.wrong != nil {
			t.Errorf("got %d connections, %v and %v, want 4 and everything once", n.dials, atParent.wrong, atRunner.wrong)
		}
		runner.Close(nil)
		s.Wait()
	})
}

func TestAHandlerThatTakesLongIsNoSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		parent, runner, _ := flakyPair(15*time.Second, nil)
		handled := make(chan struct{})
		s := serve(parent, runner, func([]byte) {
			time.Sleep(time.Hour)
			close(handled)
		}, ignore)
		if err := runner.Send(t.Context(), []byte("work")); err != nil {
			t.Fatal(err)
		}
		<-handled
		if parent.Err() != nil || runner.Err() != nil {
			t.Errorf("after an hour in a handler: got %v and %v, want a living link", parent.Err(), runner.Err())
		}
		runner.Close(nil)
		s.Wait()
	})
}

func TestTheCutOfAConnectionIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		parent, runner, n := flakyPair(15*time.Second, []fate{{0, -1, 0}})
		dial := runner.redial
		back := make(chan struct{})
		runner.redial = func(ctx context.Context, received uint64) (*connection, error) {
			if n.dials > 0 {
				<-back
			}
			return dial(ctx, received)
		}
		s := serve(parent, runner, ignore, ignore)
		synctest.Wait()
		select {
		case <-parent.Cuts():
			t.Fatal("Cuts: got an element while the link is connected")
		default:
		}
		if err := runner.Send(t.Context(), []byte("breaks it")); err != nil {
			t.Fatal(err)
		}
		<-parent.Cuts()
		if parent.Connected() {
			t.Error("Connected after the cut: got true, want false")
		}
		close(back)
		synctest.Wait()
		if !parent.Connected() {
			t.Error("Connected after the runner is back: got false, want true")
		}
		told := fault.Say(fault.Unavailable, "the machine has exited")
		parent.Lose(told)
		<-parent.Done()
		end, ok := errors.AsType[*End](parent.Err())
		if !ok || !end.Lost || !errors.Is(parent.Err(), told) || end.Reason != "the machine has exited" {
			t.Errorf("Err after Lose: got %v, want a loss because %v", parent.Err(), told)
		}
		s.Wait()
		if runner.Err() == nil {
			t.Error("the runner's link: got a living one, want one that its parent has given up")
		}
	})
}

func TestSendWaitsForRoomAndNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		parent, runner, _ := flakyPair(time.Hour, nil)
		c, err := runner.redial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		runner.attach(c.wire, 0, 0) // and nobody reads what arrives
		frame := make([]byte, 1<<20)
		for range Window / len(frame) {
			if runner.Send(t.Context(), frame[headerSize:]) != nil {
				t.Fatal("Send into a window with room failed")
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := runner.Send(ctx, frame); fault.Of(err) != fault.Canceled {
			t.Errorf("Send into a full window: got %v, want canceled", err)
		}
		if kept := runner.out.size(); kept > Window {
			t.Errorf("kept: got %d bytes, want at most %d", kept, Window)
		}
		waiting := make(chan error, 3)
		for range cap(waiting) {
			go func() { waiting <- runner.Send(t.Context(), frame) }()
		}
		synctest.Wait()
		s := serve(parent, runner, ignore, ignore) // somebody reads now
		for range cap(waiting) {
			if err := <-waiting; err != nil {
				t.Errorf("Send that waited for room: got %v, want nil", err)
			}
		}
		runner.Close(nil)
		s.Wait()
	})
}

func TestClosingReleasesWhoWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, runner, _ := flakyPair(time.Hour, nil)
		c, err := runner.redial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		runner.attach(c.wire, 0, 0)
		frame := make([]byte, 1<<20)
		waiting := make(chan error, 10)
		for range cap(waiting) {
			go func() { waiting <- runner.Send(t.Context(), frame) }()
		}
		synctest.Wait()
		runner.Close(nil)
		refused := 0
		for range cap(waiting) {
			if err := <-waiting; err != nil {
				refused++
				if end, ok := errors.AsType[*End](err); !ok || !end.Here {
					t.Errorf("Send while the link is closed: got %v, want the end", err)
				}
			}
		}
		if refused < cap(waiting)-4 {
			t.Errorf("refused: got %d of %d frames of a MiB, want at least %d", refused, cap(waiting), cap(waiting)-4)
		}
	})
}

func TestAPeerThatReadsNothingIsNotAnsweredForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		parent, runner, n := flakyPair(time.Hour, nil)
		c, err := n.dial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		runner.attach(c.wire, 0, 0) // which nobody reads
		answer := make([]byte, 1<<20)
		var posted int
		for posted = range 100 {
			if err = parent.Post(answer); err != nil {
				break
			}
		}
		if posted > (Window+maxExtra)>>20 || fault.Of(err) != fault.Exhausted {
			t.Errorf("Post to a peer that does not read: got %d MiB and %v, want at most %d and exhausted", posted, err, (Window+maxExtra)>>20)
		}
		<-parent.Done()
		runner.Lose(err)
	})
}
