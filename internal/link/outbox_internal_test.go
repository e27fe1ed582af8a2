package link

import "testing"

func TestWhatIsNotAcknowledgedYetTakesLittleMemoryOnALinkThatIsIdle(t *testing.T) {
	t.Parallel()
	l := newLink("r", Hello{}, MaxSilence)
	l.resumable = true
	kept := func() (sizes []int) {
		for c := l.out.first; c != nil; c = c.next {
			sizes = append(sizes, cap(c.data))
		}
		return sizes
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(recordFrame, 100, make([]byte, 100))
	if got := kept(); len(got) != 1 || got[0] != tinyChunk {
		t.Errorf("chunks of the first frame: got %d, want one of %d bytes", got, tinyChunk)
	}
	l.put(recordFrame, 1000, make([]byte, 1000))
	l.put(recordFrame, 100_000, make([]byte, 100_000))
	if got := kept(); len(got) != 4 || got[1] != smallChunk || got[2] != largeChunk || got[3] != largeChunk {
		t.Errorf("chunks of ever larger frames: got %d, want them to grow", got)
	}
	l.out.trim(l.out.end)
	l.put(recordFrame, 100, make([]byte, 100))
	if got := kept(); len(got) != 1 || got[0] != smallChunk {
		t.Errorf("chunks of a frame among others: got %d, want one of %d bytes", got, smallChunk)
	}
	l.out.trim(l.out.end)
	l.idle = true
	l.putBeat()
	if got := kept(); len(got) != 1 || got[0] != tinyChunk {
		t.Errorf("chunks of a sign of life: got %d, want one of %d bytes", got, tinyChunk)
	}
	l.out.trim(l.out.end)
	if got := kept(); len(got) != 0 {
		t.Errorf("chunks when all is acknowledged: got %d, want none", got)
	}
}
