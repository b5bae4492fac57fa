package kv

import "math"

// The positions of GEO commands: 52 bits, longitude and latitude in turn, kept as the score of a sorted set.
const (
	geoSteps        = 26 // bits of each coordinate
	minLongitude    = -180.0
	maxLongitude    = 180.0
	minLatitude     = -85.05112878 // of the Mercator projection
	maxLatitude     = 85.05112878
	earthRadius     = 6372797.560856 // metres
	mercatorMax     = 20037726.37    // metres
	degreesToRadian = math.Pi / 180
)

// geoPoint is a position in degrees.
type geoPoint struct{ longitude, latitude float64 }

func (p geoPoint) valid() bool {
	return p.longitude >= minLongitude && p.longitude <= maxLongitude && p.latitude >= minLatitude && p.latitude <= maxLatitude
}

func radians(degrees float64) float64 { return degrees * degreesToRadian }
func degrees(radians float64) float64 { return radians / degreesToRadian }

// spread puts a zero before each bit of n.
func spread(n uint32) uint64 {
	x := uint64(n)
	x = (x | x<<16) & 0x0000ffff0000ffff
	x = (x | x<<8) & 0x00ff00ff00ff00ff
	x = (x | x<<4) & 0x0f0f0f0f0f0f0f0f
	x = (x | x<<2) & 0x3333333333333333
	return (x | x<<1) & 0x5555555555555555
}

// gather takes every second bit of x, the lowest one first.
func gather(x uint64) uint32 {
	x &= 0x5555555555555555
	x = (x | x>>1) & 0x3333333333333333
	x = (x | x>>2) & 0x0f0f0f0f0f0f0f0f
	x = (x | x>>4) & 0x00ff00ff00ff00ff
	x = (x | x>>8) & 0x0000ffff0000ffff
	return uint32(x | x>>16)
}

// geoCell is a cell of the grid with 2^steps rows and columns.
type geoCell struct {
	bits  uint64
	steps int
}

// cellOf returns the cell of a point; the latitudes of the grid end at bound.
func cellOf(p geoPoint, steps int, bound float64) geoCell {
	scale := float64(uint64(1) << steps)
	x := (p.longitude - minLongitude) / (maxLongitude - minLongitude) * scale
	y := (p.latitude + bound) / (bound + bound) * scale
	return geoCell{spread(uint32(uint64(y))) | spread(uint32(uint64(x)))<<1, steps}
}

// geoScore returns the score that stands for a point.
func geoScore(p geoPoint) float64 { return float64(cellOf(p, geoSteps, maxLatitude).bits) }

// geoArea is the rectangle that a cell covers, in degrees.
type geoArea struct{ low, high geoPoint }

func (g geoCell) area() geoArea {
	row, column := gather(g.bits), gather(g.bits>>1)
	scale := float64(uint64(1) << g.steps)
	along := func(i float64, low, high float64) float64 { return low + float64(i/scale*(high-low)) }
	x, y := float64(column), float64(row)
	return geoArea{
		geoPoint{along(x, minLongitude, maxLongitude), along(y, minLatitude, maxLatitude)},
		geoPoint{along(x+1, minLongitude, maxLongitude), along(y+1, minLatitude, maxLatitude)},
	}
}

// pointOf returns the position that a score stands for: the middle of its cell.
func pointOf(score float64) geoPoint {
	a := geoCell{uint64(int64(score)), geoSteps}.area()
	clamp := func(f, low, high float64) float64 { return max(low, min(high, f)) }
	return geoPoint{
		clamp((a.low.longitude+a.high.longitude)/2, minLongitude, maxLongitude),
		clamp((a.low.latitude+a.high.latitude)/2, minLatitude, maxLatitude),
	}
}

// moved returns the cell that lies some columns to the east and rows to the north; the grid is closed in both directions.
// Like Redis, it brings only a coordinate that moves back into the grid: a search around longitude 180 begins outside.
func (g geoCell) moved(columns, rows int) geoCell {
	mask := uint32(uint64(1)<<g.steps - 1)
	row, column := gather(g.bits), gather(g.bits>>1)
	if rows != 0 {
		row = (row + uint32(rows)) & mask
	}
	if columns != 0 {
		column = (column + uint32(columns)) & mask
	}
	return geoCell{spread(row) | spread(column)<<1, g.steps}
}

// scores returns the half open range of scores of the points in the cell.
func (g geoCell) scores() (from, end float64) {
	shift := 2 * (geoSteps - g.steps)
	return float64(g.bits << shift), float64((g.bits + 1) << shift)
}

func latitudeDistance(a, b float64) float64 { return earthRadius * math.Abs(radians(b)-radians(a)) }

// geoDistance returns the distance of two points in metres on a sphere, by the haversine formula.
func geoDistance(a, b geoPoint) float64 {
	v := sine((radians(b.longitude) - radians(a.longitude)) / 2)
	if v == 0 {
		return latitudeDistance(a.latitude, b.latitude)
	}
	first, second := radians(a.latitude), radians(b.latitude)
	u := sine((second - first) / 2)
	square := float64(u*u) + float64(cosine(first)*cosine(second)*v*v)
	return 2 * earthRadius * arcSine(math.Sqrt(square))
}

// geoShape is what GEOSEARCH looks in: a circle, or a rectangle if radius is negative. Lengths are in metres / unit.
type geoShape struct {
	center        geoPoint
	radius        float64
	width, height float64
	unit          float64 // metres
}

// distance returns the distance of a point from the centre in metres, false if it lies outside.
func (s geoShape) distance(p geoPoint) (float64, bool) {
	if s.radius >= 0 {
		d := geoDistance(s.center, p)
		return d, d <= s.radius*s.unit
	}
	if latitudeDistance(p.latitude, s.center.latitude) > s.height*s.unit/2 {
		return 0, false
	}
	if geoDistance(p, geoPoint{s.center.longitude, p.latitude}) > s.width*s.unit/2 {
		return 0, false
	}
	return geoDistance(s.center, p), true
}

// bounds returns a rectangle around the shape.
func (s geoShape) bounds() geoArea {
	width, height := s.width/2, s.height/2
	if s.radius >= 0 {
		width, height = s.radius, s.radius
	}
	dy := degrees(height * s.unit / earthRadius)
	edge := s.center.latitude + dy // the edge nearer to the pole
	if s.center.latitude < 0 {
		edge = s.center.latitude - dy
	}
	dx := degrees(width * s.unit / earthRadius / cosine(radians(edge)))
	x, y := s.center.longitude, s.center.latitude
	return geoArea{geoPoint{x - dx, y - dy}, geoPoint{x + dx, y + dy}}
}

// steps returns how fine the grid may be so that a cell and its neighbours cover the shape.
func (s geoShape) steps() int {
	reach := s.radius
	if reach < 0 {
		reach = math.Sqrt(float64(s.width/2*(s.width/2)) + float64(s.height/2*(s.height/2)))
	}
	reach *= s.unit
	if reach == 0 {
		return geoSteps
	}
	steps := 1
	for ; reach < mercatorMax; reach *= 2 {
		steps++
	}
	steps -= 2
	if away := math.Abs(s.center.latitude); away > 80 {
		steps -= 2
	} else if away > 66 {
		steps--
	}
	return max(1, min(geoSteps, steps))
}

// cells returns the cells that cover the shape, in the order in which Redis looks through them: the one of the
// centre, north, south, east, west, then the corners.
func (s geoShape) cells() []geoCell {
	bounds, steps := s.bounds(), s.steps()
	center := cellOf(s.center, steps, maxLatitude)
	if steps > 1 && (center.moved(0, 1).area().high.latitude < bounds.high.latitude ||
		center.moved(0, -1).area().low.latitude > bounds.low.latitude ||
		center.moved(1, 0).area().high.longitude < bounds.high.longitude ||
		center.moved(-1, 0).area().low.longitude > bounds.low.longitude) {
		steps--
		center = cellOf(s.center, steps, maxLatitude)
	}
	area := center.area()
	needed := func(columns, rows int) bool {
		if steps < 2 {
			return true
		}
		return !(rows < 0 && area.low.latitude < bounds.low.latitude || rows > 0 && area.high.latitude > bounds.high.latitude ||
			columns < 0 && area.low.longitude < bounds.low.longitude || columns > 0 && area.high.longitude > bounds.high.longitude)
	}
	cells := []geoCell{center}
	for _, step := range [][2]int{{0, 1}, {0, -1}, {1, 0}, {-1, 0}, {1, 1}, {-1, 1}, {1, -1}, {-1, -1}} {
		cell := center.moved(step[0], step[1])
		// With the coarsest grids several neighbours are the same; like Redis, drop one that follows its like.
		if needed(step[0], step[1]) && (len(cells) == 1 || cell != cells[len(cells)-1]) {
			cells = append(cells, cell)
		}
	}
	return cells
}
