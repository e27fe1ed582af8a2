package flyapi

import (
	"net/http"
	"slices"
)

// listRegions lists the regions that machines can be created in.
func (s *Service) listRegions(*request) (int, any, error) {
	shown := make([]region, 0, len(s.Regions))
	for _, code := range s.Regions {
		known := knownRegions()
		if i := slices.IndexFunc(known, func(r region) bool { return r.Code == code }); i >= 0 {
			shown = append(shown, known[i])
		} else {
			shown = append(shown, region{Code: code, Name: code, GatewayAvailable: true, Capacity: 1000})
		}
	}
	return http.StatusOK, map[string]any{"regions": shown, "nearest": s.Regions[0]}, nil
}

// placementRequest asks where so many machines of a size would go.
type placementRequest struct {
	Region  string `json:"region"`
	Compute *guest `json:"compute"`
	Count   int    `json:"count"`
}

// placements says how many machines each region would take: as many as this server has room for, in the first of the
// regions that takes any.
func (s *Service) placements(r *request) (int, any, error) {
	wanted := &placementRequest{}
	if err := r.read(maxSmallBody, wanted); err != nil {
		return 0, nil, err
	}
	size, err := guestOf("", wanted.Compute)
	if err != nil {
		return 0, nil, err
	}
	if wanted.Count < 0 {
		return 0, nil, invalid("count must not be negative")
	}
	count := max(1, wanted.Count)
	regions, err := s.regionsOf(wanted.Region)
	if err != nil {
		return 0, nil, err
	}
	room := max(0, s.MaxMachines-s.living(""))
	type placed struct {
		Region      string `json:"region"`
		Count       int    `json:"count"`
		Concurrency int    `json:"concurrency"`
	}
	answer := []placed{}
	for _, code := range regions {
		if s.quirks.refuses(code) != nil {
			answer = append(answer, placed{Region: code})
			continue
		}
		n := min(count, room)
		answer = append(answer, placed{Region: code, Count: n, Concurrency: max(n, 1)})
		count, room = count-n, room-n
	}
	return http.StatusOK, map[string]any{"regions": answer, "guest": size}, nil
}

// memoryView is a machine's memory.
type memoryView struct {
	AvailableMB int `json:"available_mb"`
	LimitMB     int `json:"limit_mb"`
}

// getMemory shows the memory that the machine was given.
func (s *Service) getMemory(r *request) (int, any, error) {
	size := r.entry.config().guest.size(s.MaxCPUs, s.MaxMemoryMB)
	return http.StatusOK, &memoryView{AvailableMB: size.MemoryMB, LimitMB: size.MemoryMB}, nil
}

// putMemory would change the memory of a machine that runs, which no provider here can.
func (s *Service) putMemory(*request) (int, any, error) { return 0, nil, errBalloon() }

// reclaimMemory would take memory back from a machine that runs.
func (s *Service) reclaimMemory(*request) (int, any, error) { return 0, nil, errBalloon() }

func errBalloon() error {
	return refuse(http.StatusNotImplemented, "unimplemented: the memory of a machine that runs cannot be changed here; update its config.guest")
}
