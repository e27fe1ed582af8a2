package link_test

import (
	"context"
	"fmt"
	"testing"
)

func TestAHandlerThatTakesLongCanLeaveReadingToAnother(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const waiting = 20
			parent, runner := pair(t, newHome(t, nil), "r", way)
			go func() { _ = parent.Serve(func([]byte) {}) }()
			all, arrived := make(chan struct{}), 0
			turns := make(chan uint64, waiting)
			handled := make(chan string, waiting)
			go func() {
				_ = runner.Serve(func(frame []byte) {
					own := string(frame) // the frame is gone when the turn is passed on
					arrived++
					if arrived == waiting {
						close(all)
						return
					}
					turns <- runner.Turn()
					<-all // so that all but the last wait for the last
					handled <- own
				})
			}()
			for i := range waiting {
				if err := parent.Send(context.Background(), fmt.Appendf(nil, "frame %d", i)); err != nil {
					t.Fatal(err)
				}
			}
			for range waiting - 1 {
				turn := <-turns
				runner.Pass(turn)
				runner.Pass(turn) // again, which is nothing
			}
			seen := map[string]bool{}
			for range waiting - 1 {
				seen[<-handled] = true
			}
			if len(seen) != waiting-1 {
				t.Errorf("got %d different frames, want %d: %v", len(seen), waiting-1, seen)
			}
			parent.Close(nil)
			<-runner.Done()
		})
	}
}

func TestWhatIsPostedLateIsSentHoweverTheTurnEnds(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const frames = 2000
			parent, runner := pair(t, newHome(t, nil), "r", way)
			answers := newCollector()
			go func() { _ = parent.Serve(answers.handle) }()
			turns := make(chan uint64, frames)
			go func() {
				for turn := range turns {
					runner.Pass(turn) // at any moment: before the answer, after it, when the turn is over
				}
			}()
			go func() {
				_ = runner.Serve(func(frame []byte) {
					own := string(frame)
					turn := runner.Turn()
					turns <- turn
					if err := runner.PostLate(turn, []byte(own)); err != nil {
						t.Errorf("PostLate: %v", err)
					}
				})
			}()
			for i := range frames {
				if err := parent.Send(context.Background(), fmt.Appendf(nil, "%d", i)); err != nil {
					t.Fatal(err)
				}
				if i%3 == 0 {
					answers.wait(t, i/2) // so that often none comes after
				}
			}
			got := answers.wait(t, frames)
			seen := map[string]bool{}
			for _, answer := range got {
				seen[string(answer)] = true
			}
			if len(got) != frames || len(seen) != frames {
				t.Errorf("got %d answers, %d of them different, want %d", len(got), len(seen), frames)
			}
			parent.Close(nil)
			<-runner.Done()
			close(turns)
		})
	}
}
