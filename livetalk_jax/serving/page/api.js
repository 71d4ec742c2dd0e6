// The server's HTTP side, and its errors in words for people.

const TITLES = {
  unauthorized: 'Not allowed in.',
  forbidden: 'Not allowed.',
  not_found: 'Not there any more.',
  too_large: 'Too large.',
  unsupported_media: 'This file cannot be used.',
  unprocessable: 'This cannot be used.',
  rate_limited: 'Too fast.',
  model_failed: 'The model failed.',
  at_capacity: 'All seats are taken.',
  warming_up: 'The server is warming up.',
  draining: 'The server is shutting down.',
  audio_overflow: 'Too much speech is waiting.',
  unreachable: 'The server cannot be reached.',
  microphone: 'No microphone.',
  sound: 'This sound cannot be played.',
}

export class ServerError extends Error {
  constructor({ code, message, retryable = false }, status = 0, retryAfter = 0) {
    super(message)
    Object.assign(this, { code, retryable, status, retryAfter })
  }

  get title() {
    return TITLES[this.code] ?? 'Something went wrong.'
  }
}

const RENEW_AGAIN = 5 // s after a fresh token could not be had

export class Api {
  token = ''
  #renewal

  // Use a token and keep it fresh: it is exchanged now and whenever half of its time is over. An API key is refused, and stays.
  async use(token, onfresh) {
    clearTimeout(this.#renewal)
    this.token = token
    if (!token) return
    let wait = RENEW_AGAIN
    try {
      const fresh = await this.request('POST', '/v1/tokens/renew')
      if (this.token !== token) return
      this.token = fresh.token
      wait = fresh.expires_in / 2
      onfresh(fresh.token, token)
    } catch (error) {
      if (this.token !== token || !error.retryable) return
    }
    this.#renewal = setTimeout(() => this.use(this.token, onfresh), wait * 1000)
  }

  async request(method, path, body) {
    const json = body !== undefined && !(body instanceof FormData)
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {}
    if (json) headers['Content-Type'] = 'application/json'
    let response
    try {
      response = await fetch(path, { method, headers, body: json ? JSON.stringify(body) : body, keepalive: method === 'DELETE' })
    } catch {
      throw new ServerError({ code: 'unreachable', message: 'Is it running, and are you online?', retryable: true })
    }
    if (response.ok) return response.status === 204 ? null : response.json()
    const { error } = await response.json().catch(() => ({}))
    const fallback = { code: 'unreachable', message: `It answered ${response.status}.`, retryable: response.status >= 500 }
    throw new ServerError(error ?? fallback, response.status, Number(response.headers.get('Retry-After') ?? 0))
  }

  // form: {portrait: Blob} or {portrait_name}, prompt; to carry a session on also {motion: Blob, generation}.
  open(form) {
    const data = new FormData()
    for (const [name, value] of Object.entries(form)) if (value !== null && value !== '') data.append(name, value)
    return this.request('POST', '/v1/sessions', data)
  }

  streamUrl(id) {
    const url = new URL(`/v1/sessions/${id}/stream`, location.href)
    url.protocol = url.protocol.replace('http', 'ws')
    if (this.token) url.searchParams.set('token', this.token)
    return url
  }
}
