// Live figures: what the server says each second, and what is seen here.

const $ = (id) => document.getElementById(id)
const time = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`)
const NAMES = ['collect', 'turn', 'compute', 'encode', 'network', 'player']

export class Figures {
  #stages = Object.fromEntries(NAMES.map((name) => [name, 0]))
  #frames = 0
  #pings = new Map()
  #spoke = null // when the first sample of a segment was sent
  #awaited = null // the moment of the video at which it is seen
  #segment = false

  constructor(api) {
    this.api = api
  }

  begin(session) {
    this.session = session
    this.timer = setInterval(() => this.#second(), 1000)
    this.#at = performance.now()
  }
  #at = 0

  end() {
    clearInterval(this.timer)
    this.#segment = false
    this.#awaited = this.#spoke = null
  }

  spoke() {
    if (!this.#segment) this.#spoke = performance.now()
    this.#segment = true
  }

  paused() {
    this.#segment = false
  }

  seen({ mediaTime }) {
    this.#frames++
    if (this.#awaited !== null && mediaTime >= this.#awaited - 0.02) {
      $('delay').textContent = time((performance.now() - this.#spoke) / 1000)
      this.#awaited = null
    }
  }

  heard(message) {
    switch (message.type) {
      case 'session':
        this.api.request('GET', '/v1/capacity').then(({ chunk_video_seconds }) => this.#stage('collect', chunk_video_seconds)).catch(() => {})
        break
      case 'speech_started':
        if (this.#spoke !== null) this.#awaited = this.session.transport.moment(message.time)
        break
      case 'pong':
        if (this.#pings.has(message.id)) this.#stage('network', (performance.now() - this.#pings.get(message.id)) / 2000)
        this.#pings.clear()
        break
      case 'stats':
        this.#model(message.stages)
        $('factor').textContent = `${message.realtime_factor.toFixed(message.realtime_factor < 10 ? 2 : 0)} ×`
        $('queue').textContent = message.frames_ready
        $('waiting').textContent = time(message.speech_waiting_seconds)
        $('late').textContent = message.frames_late
        break
    }
  }

  #second() {
    const now = performance.now()
    $('fps').textContent = (this.#frames / ((now - this.#at) / 1000)).toFixed(1)
    this.#frames = 0
    this.#at = now
    if (this.session.transport) this.#stage('player', this.session.transport.waiting)
    const id = Math.round(now)
    this.#pings.set(id, now)
    this.session.control('ping', { id })
  }

  #model({ wait, rewind = 0, first_frames, encode }) {
    if (wait !== undefined) this.#stage('turn', wait)
    if (first_frames !== undefined) this.#stage('compute', rewind + first_frames)
    if (encode !== undefined) this.#stage('encode', encode)
  }

  #stage(name, seconds) {
    this.#stages[name] = seconds
    $(name).textContent = time(seconds)
    for (const stage of NAMES) $('stages').querySelector(`.${stage}`).style.flexGrow = this.#stages[stage]
    $('stages').ariaLabel = `Latency by stage: ${NAMES.map((stage) => `${stage} ${time(this.#stages[stage])}`).join(', ')}`
  }
}
