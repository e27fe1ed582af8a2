package engine

// OpenJobs returns how many jobs count as unfinished.
func (e *Engine) OpenJobs() int64 { return e.open.Load() }
