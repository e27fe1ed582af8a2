package joblog

import (
	"container/list"
	"sync"

	"github.com/dayfly-run/dayfly/internal/failpoint"
)

// cache holds the logs used last. It bounds how many there are and how many of them have an open file.
//
// Lock order: a log's mutex may be held when the cache's is taken, never the other way round. A log with users is
// never touched by the cache; one without users is nobody's, so the cache may close its file under its own mutex.
type cache struct {
	mu              sync.Mutex
	logs            map[string]*log
	all, open       list.List // of *log, the one used last in front
	maxAll, maxOpen int
}

// place is where a log is in the cache.
type place struct {
	users     int // callers that have it or wait for it
	all, open *list.Element
}

func (c *cache) init(maxOpen, maxAll int) {
	c.logs = map[string]*log{}
	c.maxOpen, c.maxAll = maxOpen, maxAll
}

// get returns the attempt's log, making one if there is none. Each get is followed by one put.
func (c *cache) get(attempt string, path func() string) *log {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.logs[attempt]
	if l == nil {
		l = &log{attempt: attempt, path: path()}
		c.logs[attempt] = l
		l.place.all = c.all.PushFront(l)
	}
	l.place.users++
	c.all.MoveToFront(l.place.all)
	if l.place.open != nil {
		c.open.MoveToFront(l.place.open)
	}
	return l
}

func (c *cache) put(l *log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.place.users--
	for c.open.Len() > c.maxOpen {
		idle := lastIdle(&c.open)
		if idle == nil {
			break
		}
		c.closeLocked(idle)
	}
	for c.all.Len() > c.maxAll {
		idle := lastIdle(&c.all)
		if idle == nil {
			break
		}
		c.closeLocked(idle)
		c.all.Remove(idle.place.all)
		delete(c.logs, idle.attempt)
	}
}

// lastIdle returns the log that has been idle longest, or nil.
func lastIdle(logs *list.List) *log {
	for e := logs.Back(); e != nil; e = e.Prev() {
		if l := e.Value.(*log); l.place.users == 0 {
			return l
		}
	}
	return nil
}

// opened counts a file that its log has just opened.
func (c *cache) opened(l *log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.place.open = c.open.PushFront(l)
}

// close closes the file of a log that the caller has, if it is open.
func (c *cache) close(l *log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked(l)
}

// closeLocked ignores what closing says: what was written is the kernel's already.
func (c *cache) closeLocked(l *log) {
	if l.place.open != nil {
		c.open.Remove(l.place.open)
		l.place.open = nil
		_ = failpoint.Hit("log.close.before")
		l.file.Close()
		l.file = nil
		_ = failpoint.Hit("log.close.after")
	}
}

func (c *cache) closeAll() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.logs {
		c.closeLocked(l)
	}
	return nil
}
