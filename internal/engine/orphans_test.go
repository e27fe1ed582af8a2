package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// leave stores a file as an upload does that has come whole, and whose server is killed before it does anything else.
func (f *fleet) leave(key string) {
	f.t.Helper()
	if _, err := f.options.Blobs.Put(f.t.Context(), key, strings.NewReader("left"), nil); err != nil {
		f.t.Fatal(err)
	}
}

// files returns the keys of all files.
func (f *fleet) files() (keys []string) {
	f.t.Helper()
	for info, err := range f.options.Blobs.List(f.t.Context(), "") {
		if err != nil {
			f.t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

func TestFilesOfNoJobAreRemovedWhereverTheServerWasKilled(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(f *fleet, job *store.Job){
		"while an input that came after its job was deleted was being discarded": func(f *fleet, job *store.Job) {
			f.leave(ticket.NewUploadKey(job.ID))
		},
		"while an artifact was put into its place, and its job was deleted": func(f *fleet, job *store.Job) {
			f.leave(ticket.ArtifactKey(job.ID, job.Attempt, "out/a"))
			f.leave(ticket.ArtifactKey(job.ID, job.Attempt, "out/b"))
		},
		"and both, of many jobs": func(f *fleet, _ *store.Job) {
			for i := range 1100 { // more than one sweep remembers
				f.leave(ticket.InputKey(fmt.Sprintf("job_%04d", i), "a"))
			}
			f.leave(ticket.ArtifactKey("job_0000", "att_1", "a"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T) {
				f := newFleet(t, nil)
				kept := f.uploaded()
				check(t, f.finished(kept.ID, time.Minute), dayfly.Succeeded, "", 1)
				f.leave(ticket.NewUploadKey(kept.ID)) // it goes with its job
				f.leave("elsewhere/x")                // nobody knows what that is
				want := len(f.files())
				gone := f.finished(f.submit(nil).ID, time.Minute)
				if err := f.engine.Load().Delete(t.Context(), gone.ID); err != nil {
					t.Fatal(err)
				}
				f.stop()
				kill(f, gone)
				f.start()
				left := len(f.files())
				wait(t.Context(), 70*time.Minute)
				if n := len(f.files()); n != left {
					t.Errorf("after the first sweep %d files are left of %d, want all: somebody may notice that the store is another", n, left)
				}
				wait(t.Context(), 3*time.Hour)
				if files := f.files(); len(files) != want {
					t.Errorf("after some hours these files are left, want %d:\n%s", want, strings.Join(files, "\n"))
				}
			})
		})
	}
}

func TestNoFilesAreRemovedSoonWhenTheStoreIsAnOlderCopy(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T) {
		f := newFleet(t, nil)
		older := f.backup()
		job := f.uploaded()
		f.work = workFor(time.Hour)
		f.finished(job.ID, 2*time.Hour)
		want := len(f.files())
		f.restore(older)
		wait(t.Context(), 70*time.Minute)
		if got := len(f.files()); got != want {
			t.Errorf("an hour after an older copy of the store was put in its place %d files are left of %d, want all", got, want)
		}
	})
}
