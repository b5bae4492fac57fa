package kv

import "lockstep/smr"

// removals holds, for each slot, the version of the last removal of a key, 0 if there was none. It takes memory for those
// parts of the range of slots in which there was one; nil holds none.
type removals [smr.Slots / slotsOfPart]*[slotsOfPart]smr.LSN

const (
	slotsOfPart = 128
	_           = uint(-(smr.Slots % slotsOfPart)) // compile error unless parts fill the range exactly
)

func (r *removals) of(slot uint16) smr.LSN {
	if r == nil {
		return 0
	}
	if part := r[slot/slotsOfPart]; part != nil {
		return part[slot%slotsOfPart]
	}
	return 0
}

func (r *removals) note(slot uint16, version smr.LSN) {
	part := r[slot/slotsOfPart]
	if part == nil {
		part = new([slotsOfPart]smr.LSN)
		r[slot/slotsOfPart] = part
	}
	part[slot%slotsOfPart] = max(part[slot%slotsOfPart], version)
}

// each visits the slots in which there was a removal, in their order.
func (r *removals) each(visit func(slot uint16, version smr.LSN)) {
	if r == nil {
		return
	}
	for i, part := range r {
		if part == nil {
			continue
		}
		for at, version := range part {
			if version != 0 {
				visit(uint16(i*slotsOfPart+at), version)
			}
		}
	}
}
