package call

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxLogged is how many bytes of records wait to be sent. What comes when there are as many is left out and counted: code
// that logs never waits for whoever reads it.
const maxLogged = 1 << 20

// recordCost is what a record costs besides its text.
const recordCost = 128

// Logs collects what a runner logs and prints, for its parent. It is safe for concurrent use.
type Logs struct {
	level   atomic.Int64  // the least slog.Level that is taken
	reading atomic.Int32  // how many Lines are at work on what they have read
	mark    string        // a line that nobody prints: where what belongs to one parent ends
	passed  chan struct{} // an element for each mark that Lines has come to

	mu      sync.Mutex
	encoded []byte // frames to be, one record after another
	ends    []int  // where each ends
	dropped int
	server  *Server
	unread  []func() bool
	pipes   []io.Writer // whose other ends Lines reads
	between io.Writer   // where what comes goes while there is no parent; nil: it waits for one
	parting bool        // what comes belongs to a parent that is gone
	wake    chan struct{}
	active  bool          // what was taken to be sent may not have been sent yet
	sending chan struct{} // has an element while records are sent, so that they stay in order
	stalled atomic.Bool   // an urgent record could not be sent in time, and none since
}

// NewLogs returns an empty collection.
func NewLogs() *Logs {
	l := &Logs{wake: make(chan struct{}, 1), sending: make(chan struct{}, 1), mark: "dayfly: the parent is another from here on " + rand.Text(), passed: make(chan struct{}, maxPipes)}
	l.setLevel(slog.LevelInfo)
	return l
}

func (l *Logs) setLevel(level slog.Level) { l.level.Store(int64(level)) }

// Serve makes s the server whose calls records may belong to.
func (l *Logs) Serve(s *Server) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server, l.parting = s, false
}

// Between makes what comes while there is no parent, before the first Serve and after each Part, go to w, where what the
// process says of itself goes.
func (l *Logs) Between(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.between = w
}

// maxPipes is how many pipes there may be.
const maxPipes = 8

// Pipe makes Part wait for what is in a pipe. It is for what Lines reads: w is the pipe's other end.
func (l *Logs) Pipe(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pipes = append(l.pipes, w)
}

// Part is called between two parents, when no function runs. What was logged and printed until now and was not sent is thrown
// away, so that nothing of one parent's reaches another's log. The error is that of ctx, which ends first when something
// prints faster than it can be read.
func (l *Logs) Part(ctx context.Context) error {
	l.mu.Lock()
	l.server, l.parting = nil, true
	pipes := l.pipes
	l.mu.Unlock()
	l.setLevel(slog.LevelInfo)
	go func() {
		for _, pipe := range pipes {
			_, _ = fmt.Fprintf(pipe, "\n%s\n", l.mark) // behind what is no whole line; that it was not written is noticed
		}
	}()
	for range pipes {
		select {
		case <-l.passed:
		case <-ctx.Done():
			return fmt.Errorf("call: what was printed cannot be told apart: %w", context.Cause(ctx))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.encoded, l.ends, l.dropped, l.parting = nil, nil, 0, false
	return nil
}

// add takes a record that belongs to the call x, if to any, or counts it when there are too many.
func (l *Logs) add(r *Record, x *Execution) {
	l.mu.Lock()
	if l.server == nil && l.between != nil {
		between := l.between
		if l.parting || x != nil {
			between = io.Discard
		}
		l.mu.Unlock()
		r.write(between)
		return
	}
	defer l.mu.Unlock()
	if x != nil && l.server != nil && x.server != l.server {
		return // somebody has kept the context of a call of another parent's
	}
	if x == nil && l.server != nil {
		x = l.server.only()
	}
	if x != nil {
		r.Call, r.Function = x.id, x.function.Name
	}
	if len(l.encoded)+recordCost*len(l.ends) > maxLogged {
		l.dropped++
		return
	}
	r.Dropped, l.dropped = l.dropped, 0
	l.encoded = appendRecord(l.encoded, r)
	l.ends = append(l.ends, len(l.encoded))
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// ship sends records until the context ends.
func (l *Logs) ship(ctx context.Context, link Link) {
	for {
		select {
		case <-l.wake:
			l.flush(context.Background(), link)
		case <-ctx.Done():
			return
		}
	}
}

// Flush sends what was logged and printed so far, for code that is about to end the process. It waits no longer than the context
// lasts.
func (l *Logs) Flush(ctx context.Context) {
	l.settle()
	l.mu.Lock()
	server := l.server
	l.mu.Unlock()
	if server != nil {
		l.flush(ctx, server.link)
	}
}

// urgently is how long code waits that has logged what may be the last it says.
const urgently = 10 * time.Millisecond

// hurry sends what was logged before it returns, because it may be why the process is about to end: who logs an error and then calls
// os.Exit leaves nobody else the time to. It waits only a moment for a parent that does not read, and not again until records get through.
func (l *Logs) hurry() {
	l.mu.Lock()
	server := l.server
	l.mu.Unlock()
	if server == nil || l.stalled.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), urgently)
	defer cancel()
	l.flush(ctx, server.link)
	if ctx.Err() != nil {
		l.stalled.Store(true)
	}
}

// flush sends what there is, and returns when all that was there has been sent, also by others. What it cannot send before the
// context ends is left for later.
func (l *Logs) flush(ctx context.Context, link Link) {
	l.mu.Lock()
	nothing := len(l.ends) == 0 && !l.active
	l.mu.Unlock()
	if nothing {
		return
	}
	select {
	case l.sending <- struct{}{}:
		defer func() { <-l.sending }()
	case <-ctx.Done():
		return
	}
	encoded, ends := l.take(link)
	begin := 0
	for i, end := range ends {
		if i+1 < len(ends) && ends[i+1]-begin <= maxPart {
			continue
		}
		if link.Send(ctx, []byte{byte(kindLog)}, encoded[begin:end]) != nil {
			if ctx.Err() != nil {
				l.restore(encoded, ends, begin, link)
			}
			break // or the link is over
		}
		begin = end
	}
	if begin == len(encoded) {
		l.stalled.Store(false)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active = false
}

// take returns what is to be sent over a link.
func (l *Logs) take(link Link) (encoded []byte, ends []int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ends) == 0 || l.server != nil && l.server.link != link { // which are another parent's
		return nil, nil
	}
	if l.dropped > 0 { // when nothing follows, nobody would be told
		l.encoded = appendRecord(l.encoded, &Record{Source: Counted, Time: time.Now(), Level: slog.LevelWarn, Dropped: l.dropped})
		l.ends = append(l.ends, len(l.encoded))
		l.dropped = 0
	}
	encoded, ends = l.encoded, l.ends
	l.encoded, l.ends, l.active = nil, nil, true
	return encoded, ends
}

// restore puts back what could not be sent over a link, from the byte at begin on, before what has come since.
func (l *Logs) restore(encoded []byte, ends []int, begin int, link Link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server == nil || l.server.link != link {
		return // nobody else is to have it
	}
	kept := slices.Clone(encoded[begin:])
	var bounds []int
	for _, end := range ends {
		if end > begin {
			bounds = append(bounds, end-begin)
		}
	}
	for _, end := range l.ends {
		bounds = append(bounds, end+len(kept))
	}
	l.encoded, l.ends = append(kept, l.encoded...), bounds
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Handler returns what a runner's slog.Logger writes to. A record that is logged with the context of a call carries the call.
func (l *Logs) Handler() slog.Handler { return &handler{logs: l} }

type handler struct {
	logs   *Logs
	attrs  []slog.Attr // of With, outside of groups
	groups []group
}

// group is a group that was opened, and what With put into it.
type group struct {
	name  string
	attrs []slog.Attr
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return int64(level) >= h.logs.level.Load()
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	record := Record{Source: Logged, Time: r.Time, Level: r.Level, Message: r.Message}
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		if !a.Equal(slog.Attr{}) {
			attrs = append(attrs, a)
		}
		return true
	})
	for _, g := range slices.Backward(h.groups) {
		attrs = append(slices.Clip(g.attrs), attrs...)
		if len(attrs) > 0 {
			attrs = []slog.Attr{{Key: g.name, Value: slog.GroupValue(attrs...)}}
		}
	}
	record.Attrs = append(slices.Clip(h.attrs), attrs...)
	h.logs.add(&record, From(ctx))
	if r.Level >= slog.LevelError {
		h.logs.hurry()
	}
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	n := *h
	if len(h.groups) == 0 {
		n.attrs = append(slices.Clip(h.attrs), attrs...)
		return &n
	}
	n.groups = slices.Clone(h.groups)
	last := &n.groups[len(n.groups)-1]
	last.attrs = append(slices.Clip(last.attrs), attrs...)
	return &n
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.groups = append(slices.Clip(h.groups), group{name: name})
	return &n
}

// Unread makes what waits in the pipes, at most two that stay open and are read by Lines, belong to the call that printed it: before a
// call ends, it is waited for as long as there is more in them, but not for longer than a moment.
func (l *Logs) Unread(pipes ...*os.File) error {
	unread, err := unreadOf(pipes...)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unread = append(l.unread, unread)
	return nil
}

const (
	settlePause = 50 * time.Microsecond
	settleTries = 100
)

// settle waits until what was printed has been read, or a moment.
func (l *Logs) settle() {
	l.mu.Lock()
	pipes := l.unread
	l.mu.Unlock()
	if len(pipes) == 0 {
		return
	}
	for range settleTries {
		waits := slices.ContainsFunc(pipes, func(unread func() bool) bool { return unread() })
		if !waits && l.reading.Load() == 0 {
			return
		}
		time.Sleep(settlePause)
	}
}

// Lines takes the lines that r gives until its end, which is that of everything written to the other end of a pipe. It
// never stops reading, so whoever prints does not wait. A line longer than maxText is cut into several.
func (l *Logs) Lines(r io.Reader, source Source) {
	from := &noting{Reader: r, busy: &l.reading}
	defer from.rest()
	lines := bufio.NewReaderSize(from, maxText)
	for {
		line, err := lines.ReadSlice('\n')
		if len(line) > 0 {
			text := string(line)
			if text[len(text)-1] == '\n' {
				text = text[:len(text)-1]
			}
			if text == l.mark {
				l.passed <- struct{}{}
			} else {
				l.add(&Record{Source: source, Time: time.Now(), Level: slog.LevelInfo, Message: text}, nil)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// noting counts itself while what it has read may not be a record yet, which is until it is read again.
type noting struct {
	io.Reader
	busy    *atomic.Int32
	counted bool
}

func (n *noting) Read(p []byte) (int, error) {
	n.rest()
	k, err := n.Reader.Read(p)
	n.busy.Add(1)
	n.counted = true
	return k, err
}

func (n *noting) rest() {
	if n.counted {
		n.busy.Add(-1)
		n.counted = false
	}
}

// shipper hands records to whoever takes them, on a goroutine that exists only while there are some.
type shipper struct {
	take func(Record)

	mu      sync.Mutex
	queue   []Record
	held    int
	dropped int
	running bool
}

func (s *shipper) add(r Record, size int) {
	if s.take == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held > maxLogged {
		s.dropped += r.Dropped
		if r.Source != Counted {
			s.dropped++
		}
		return
	}
	r.Dropped += s.dropped
	s.dropped = 0
	s.queue = append(s.queue, r)
	s.held += size
	if !s.running {
		s.running = true
		go s.run()
	}
}

func (s *shipper) run() {
	for {
		s.mu.Lock()
		batch, dropped := s.queue, s.dropped
		if len(batch) == 0 {
			s.dropped = 0
			s.running = false
		}
		s.queue, s.held = nil, 0
		s.mu.Unlock()
		for _, r := range batch {
			s.take(r)
		}
		if len(batch) == 0 {
			if dropped > 0 {
				s.take(Record{Source: Counted, Time: time.Now(), Level: slog.LevelWarn, Dropped: dropped})
			}
			return
		}
	}
}

// takeLog reads a frame of records.
func (c *Client) takeLog(r *reader) error {
	for len(r.rest) > 0 {
		before := len(r.rest)
		record := r.record()
		if r.bad {
			return errMalformed
		}
		c.logs.add(record, before-len(r.rest)+recordCost)
	}
	return nil
}
